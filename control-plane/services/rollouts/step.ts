import { and, eq, inArray, lte } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { insertEvent } from "../hosts/events.ts";
import { advance, halt, requireRollout } from "./rows.ts";

/** How soon it looks again: for what nobody announces, such as a host that says nothing. */
const LOOK_AGAIN_MS = 10_000;

/**
 * What time brings about in a rollout: hosts that gave no answer in theirs fail, hosts that were retired meanwhile are left out, the
 * wait after the canaries ends, and when nothing is left it is done. Says when to look again.
 */
export async function stepRollout(ctx: Context, id: Id<"rol">): Promise<"done" | { againInMs: number }> {
  const now = ctx.ports.clock.now();
  return transaction(ctx, async (tx) => {
    const parts = (state: t.RolloutHostState) => and(eq(t.rolloutHosts.rolloutId, id), eq(t.rolloutHosts.state, state));
    const retired = tx.db.select({ id: t.hosts.id }).from(t.hosts).where(eq(t.hosts.state, "retired"));
    for (const state of ["pending", "sent"] as const) {
      const left = await tx.db
        .update(t.rolloutHosts)
        .set({ state: "skipped", endedAt: now, error: "the host was retired" })
        .where(and(parts(state), inArray(t.rolloutHosts.hostId, retired)))
        .returning({ hostId: t.rolloutHosts.hostId });
      for (const { hostId } of left) await tx.audit("rollout.skipped", id, { hostId, state }, { state: "skipped" });
    }
    const error = "the host gave no final answer in its time";
    const silent = await tx.db
      .update(t.rolloutHosts)
      .set({ state: "failed", endedAt: now, error })
      .where(and(parts("sent"), lte(t.rolloutHosts.deadlineAt, now)))
      .returning({ hostId: t.rolloutHosts.hostId });
    for (const { hostId } of silent) {
      await tx.audit("rollout.failed", id, { hostId, state: "sent" }, { state: "failed", error });
      await insertEvent(ctx, tx, hostId, "upgrade_failed", error);
      await halt(tx, { id }, `${hostId}: ${error}`);
    }
    const { state, waitUntil } = await advance(ctx, tx, await requireRollout(tx.db, id));
    if (waitUntil !== null) return { againInMs: Math.max(0, waitUntil - now) };
    if (t.ACTIVE_ROLLOUT_STATES.includes(state)) return { againInMs: LOOK_AGAIN_MS };
    // Halted or cancelled: those under way still come to their end.
    const [underWay] = await tx.db
      .select({ id: t.rolloutHosts.hostId })
      .from(t.rolloutHosts)
      .where(parts("sent"))
      .limit(1);
    return underWay === undefined ? "done" : { againInMs: LOOK_AGAIN_MS };
  });
}
