import { and, eq, inArray } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, isUniqueViolation, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { countHosts, requireRollout, stepKey } from "./rows.ts";
import { viewRollout } from "./views.ts";

export const resumeInput = z.object({
  /** Hosts that came back to their version, or failed, are sent to once more. */
  retry: z.boolean().default(false),
});

/** Sets a halted rollout going again, from where it stood. Throws `not_found`, `conflict`. */
export async function resumeRollout(ctx: Context, id: Id<"rol">, { retry }: z.infer<typeof resumeInput>) {
  const now = ctx.ports.clock.now();
  try {
    return await transaction(ctx, async (tx) => {
      const before = await requireRollout(tx.db, id);
      if (retry)
        await tx.db
          .update(t.rolloutHosts)
          .set({ state: "pending", attempt: null, onTrial: false, deadlineAt: null, endedAt: null })
          .where(and(eq(t.rolloutHosts.rolloutId, id), inArray(t.rolloutHosts.state, ["returned", "failed"])));
      const counts = await countHosts(tx.db, id);
      const { canaries, others } = counts;
      const isOpen = canaries.pending + canaries.sent > 0;
      if (!isOpen && canaries.returned + canaries.failed > 0 && canaries.committed === 0)
        throw new AppError("conflict", "No canary took this version: resume with retry, or cancel the rollout.");
      // The others wait for the canaries and the while after them, unless some had it already.
      const begun = others.sent + others.committed + others.returned + others.failed > 0;
      const state = isOpen || !begun ? ("canary" as const) : ("rolling" as const);
      const after = { ...before, state, haltReason: null, resumes: before.resumes + 1 };
      expectOne(
        await tx.db
          .update(t.rollouts)
          .set({ state, haltReason: null, resumes: after.resumes })
          .where(and(eq(t.rollouts.id, id), eq(t.rollouts.state, "halted"))),
        new AppError("conflict", "Only a halted rollout can be resumed."),
      );
      await tx.audit("rollout.resume", id, { state: before.state, haltReason: before.haltReason }, { state, retry });
      await tx.job("rollout.step", { rolloutId: id }, now, stepKey(after));
      return viewRollout(after, counts);
    });
  } catch (error) {
    if (isUniqueViolation(error, "rollout_hosts.host_id"))
      throw new AppError("conflict", "One of its hosts takes part in another rollout by now.");
    throw error;
  }
}

/**
 * Ends a rollout: no further host is sent to. Those that are under way go on to their end, which is known on the host.
 * Throws `not_found`, `conflict`.
 */
export async function cancelRollout(ctx: Context, id: Id<"rol">) {
  const now = ctx.ports.clock.now();
  return transaction(ctx, async (tx) => {
    const before = await requireRollout(tx.db, id);
    expectOne(
      await tx.db
        .update(t.rollouts)
        .set({ state: "cancelled", waitUntil: null, endedAt: now })
        .where(and(eq(t.rollouts.id, id), inArray(t.rollouts.state, [...t.ACTIVE_ROLLOUT_STATES, "halted"]))),
      new AppError("conflict", "The rollout has ended."),
    );
    await tx.db
      .update(t.rolloutHosts)
      .set({ state: "skipped", endedAt: now })
      .where(and(eq(t.rolloutHosts.rolloutId, id), eq(t.rolloutHosts.state, "pending")));
    await tx.audit("rollout.cancel", id, { state: before.state }, { state: "cancelled" });
    const after = { ...before, state: "cancelled" as const, waitUntil: null, endedAt: now };
    return viewRollout(after, await countHosts(tx.db, id));
  });
}
