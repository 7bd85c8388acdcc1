import { and, eq } from "drizzle-orm";
import { type TaskOutcome, upgradeResultSchema } from "../../../shared/protocol/tasks.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { insertEvent } from "../hosts/events.ts";
import { halt, type RolloutHost, requireRollout, wakeStep } from "./rows.ts";

/** Ends of a task that say nothing about the upgrade: it is asked again, until its deadline. */
const ASK_AGAIN = new Set([
  "link_lost",
  "host_not_online",
  "task_gone",
  "cancelled",
  "deadline",
  "stopping",
  "too_many_tasks",
  "busy",
]);

type End = { state: "committed" | "returned" | "failed"; error: string | null; lastWords: string | null };

/** What a host's answer means; undefined when it is not the last one. */
export function readAnswer(outcome: TaskOutcome): End | "trial" | undefined {
  if (!outcome.ok) {
    const { code, detail } = outcome.error;
    return ASK_AGAIN.has(code) ? undefined : { state: "failed", error: `${code}: ${detail}`, lastWords: null };
  }
  const parsed = upgradeResultSchema.safeParse(outcome.result);
  if (!parsed.success) return { state: "failed", error: "the host's answer can't be read", lastWords: null };
  const result = parsed.data;
  if (result.state === "staged") return undefined;
  if (result.state === "trial") return "trial";
  if (result.state === "committed") return { state: "committed", error: null, lastWords: null };
  return { state: "returned", error: result.reason, lastWords: result.lastWords };
}

/**
 * A host has answered. Its end is written once, whoever hears of it how often; anything but a commit halts the rollout in
 * the same transaction.
 */
export async function settleHost(
  ctx: Context,
  part: Pick<RolloutHost, "rolloutId" | "hostId" | "attempt" | "onTrial">,
  outcome: TaskOutcome,
): Promise<void> {
  const end = readAnswer(outcome);
  if (end === undefined || (end === "trial" && part.onTrial)) return;
  const mine = and(
    eq(t.rolloutHosts.rolloutId, part.rolloutId),
    eq(t.rolloutHosts.hostId, part.hostId),
    eq(t.rolloutHosts.attempt, part.attempt ?? "tsk_"),
    eq(t.rolloutHosts.state, "sent"),
  );
  await transaction(ctx, async (tx) => {
    if (end === "trial") {
      await tx.db.update(t.rolloutHosts).set({ onTrial: true }).where(mine);
      return;
    }
    const { rowsAffected } = await tx.db
      .update(t.rolloutHosts)
      .set({ ...end, endedAt: ctx.ports.clock.now() })
      .where(mine);
    if (rowsAffected !== 1) return;
    const rollout = await requireRollout(tx.db, part.rolloutId);
    const { state, error } = end;
    await tx.audit(`rollout.${state}`, rollout.id, { hostId: part.hostId, state: "sent" }, { state, error });
    const detail = state === "committed" ? `now on ${rollout.version}` : `${rollout.version}: ${error}`;
    await insertEvent(ctx, tx, part.hostId, `upgrade_${state}`, detail.slice(0, 500));
    if (state !== "committed") await halt(tx, rollout, `${part.hostId} ${state}: ${error}`);
    await wakeStep(ctx, tx, rollout);
  });
}
