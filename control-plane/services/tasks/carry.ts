import { and, eq, inArray, isNotNull, or, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { TaskOutcome } from "../../../shared/protocol/tasks.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";

/** The carrying side of tasks: what the process that holds a host's link does with the rows of ask.ts. */

/** As the index says it, so that a sweep reads no row that ended. */
const OPEN = sql`${t.tasks.state} <> 'ended'`;

export type Task = typeof t.tasks.$inferSelect;

/** The tasks that wait to be sent, and those sent that were cancelled; of these hosts only, when they are given. */
export function openTasks(ctx: Context, hostIds?: readonly Id<"hst">[]): Promise<Task[]> {
  return ctx.ports.db.read
    .select()
    .from(t.tasks)
    .where(
      and(
        OPEN,
        or(eq(t.tasks.state, "waiting"), isNotNull(t.tasks.cancelledAt)),
        hostIds === undefined ? undefined : inArray(t.tasks.hostId, [...hostIds]),
      ),
    );
}

/** Takes a waiting task for the session of that epoch. False when it is another's, cancelled, or ended. */
export async function takeTask(ctx: Context, id: Id<"tsk">, epoch: number): Promise<boolean> {
  const { rowsAffected } = await ctx.ports.db.write((tx) =>
    tx
      .update(t.tasks)
      .set({ state: "sent", epoch })
      .where(and(eq(t.tasks.id, id), eq(t.tasks.state, "waiting"))),
  );
  return rowsAffected === 1;
}

/** Writes the latest events into the row of a task under way. */
export async function keepTaskEvents(ctx: Context, id: Id<"tsk">, events: t.KeptTaskEvent[]): Promise<void> {
  await ctx.ports.db.write((tx) =>
    tx
      .update(t.tasks)
      .set({ events })
      .where(and(eq(t.tasks.id, id), eq(t.tasks.state, "sent"))),
  );
}

/** The host's outcome, or what became of its link. The first end stays. */
export async function endTask(
  ctx: Context,
  id: Id<"tsk">,
  end: { outcome: TaskOutcome; events: t.KeptTaskEvent[]; clockOffsetMs: number | undefined },
): Promise<void> {
  const { outcome, events, clockOffsetMs = null } = end;
  await ctx.ports.db.write((tx) =>
    tx
      .update(t.tasks)
      .set({ state: "ended", outcome, events, clockOffsetMs, params: null, endedAt: ctx.ports.clock.now() })
      .where(and(eq(t.tasks.id, id), OPEN)),
  );
}
