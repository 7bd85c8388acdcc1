import { and, count, eq, inArray } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Transaction } from "../../db/transaction.ts";
import type { Db } from "../../ports/index.ts";
import type { Context } from "../context.ts";
import { type Decision, decide, type RolloutCounts } from "./decide.ts";

export type Rollout = typeof t.rollouts.$inferSelect;
export type RolloutHost = typeof t.rolloutHosts.$inferSelect;

/** Throws `not_found`. */
export async function requireRollout(db: Db, id: Id<"rol">): Promise<Rollout> {
  const [rollout] = await db.select().from(t.rollouts).where(eq(t.rollouts.id, id));
  if (rollout === undefined) throw new AppError("not_found");
  return rollout;
}

export async function countHosts(db: Db, id: Id<"rol">): Promise<RolloutCounts> {
  const none = () => Object.fromEntries(t.ROLLOUT_HOST_STATES.map((state) => [state, 0]));
  const counts = { canaries: none(), others: none() } as RolloutCounts;
  const rows = await db
    .select({ canary: t.rolloutHosts.canary, state: t.rolloutHosts.state, n: count() })
    .from(t.rolloutHosts)
    .where(eq(t.rolloutHosts.rolloutId, id))
    .groupBy(t.rolloutHosts.canary, t.rolloutHosts.state);
  for (const { canary, state, n } of rows) counts[canary ? "canaries" : "others"][state] = n;
  return counts;
}

/** Decides where the rollout stands now, and writes it down when it moved. */
export async function advance(ctx: Context, tx: Transaction, rollout: Rollout): Promise<Decision> {
  const now = ctx.ports.clock.now();
  const decision = decide(rollout, await countHosts(tx.db, rollout.id), now);
  const { state, waitUntil } = decision;
  if (state === rollout.state) return decision;
  await tx.db
    .update(t.rollouts)
    .set({ state, waitUntil, endedAt: state === "done" ? now : null })
    .where(and(eq(t.rollouts.id, rollout.id), eq(t.rollouts.state, rollout.state)));
  await tx.audit(`rollout.${state}`, rollout.id, { state: rollout.state }, { state });
  return decision;
}

/** A host could not be brought to the version: nothing more is sent until an operator has looked. */
export async function halt(tx: Transaction, rollout: Pick<Rollout, "id">, reason: string): Promise<void> {
  const haltReason = reason.slice(0, 1000);
  const { rowsAffected } = await tx.db
    .update(t.rollouts)
    .set({ state: "halted", haltReason, waitUntil: null })
    .where(and(eq(t.rollouts.id, rollout.id), inArray(t.rollouts.state, t.ACTIVE_ROLLOUT_STATES)));
  if (rowsAffected === 1) await tx.audit("rollout.halted", rollout.id, null, { state: "halted", haltReason });
}

/** The rollout's job, run at once: something happened that it may go on from. */
export async function wakeStep(ctx: Context, tx: Transaction, rollout: Pick<Rollout, "id" | "resumes">): Promise<void> {
  const now = ctx.ports.clock.now();
  await tx.db
    .update(t.jobs)
    .set({ runAt: now })
    .where(and(eq(t.jobs.dedupeKey, stepKey(rollout)), eq(t.jobs.state, "waiting")));
  tx.ringAt(now);
}

/** One job for each time that it is set going. */
export function stepKey({ id, resumes }: Pick<Rollout, "id" | "resumes">): string {
  return `rollout.step/${id}/${resumes}`;
}
