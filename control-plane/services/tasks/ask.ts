import { and, eq, lt, type SQL } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import type { TaskOutcome, TaskRequest } from "../../../shared/protocol/tasks.ts";
import { understandsTask } from "../../../shared/protocol/versions.ts";
import * as t from "../../db/schema/index.ts";
import { type Context, makeId } from "../context.ts";
import { understandsOf } from "../hosts/desired-state.ts";
import { isReachable } from "../hosts/reach.ts";

/** The asking side of tasks: rows that the process with the host's link works off (see carry.ts). */

/** How long the row of a task that ended stays, for whoever wonders what became of it. */
const KEEP_MS = 86_400_000;
/** A task that no process took within so long will not be: sweeps come every few seconds, hosts that lost their link come back as fast. */
const TAKE_WITHIN_MS = 15_000;
/** After the deadline, for the host's own answer to it to arrive. */
const ANSWER_WITHIN_MS = 8_000;

export type NewTask = { hostId: Id<"hst">; request: TaskRequest; deadlineAt: number; subject?: string | undefined };

export function newTaskId(ctx: Context): Id<"tsk"> {
  return makeId(ctx.ports, "tsk");
}

/**
 * Writes the task down, for whoever holds the host's link to find. Throws `not_found`, `host_needs_upgrade` when its agent
 * does not understand such tasks.
 */
export async function createTask(ctx: Context, id: Id<"tsk">, task: NewTask): Promise<void> {
  const now = ctx.ports.clock.now();
  const [host] = await ctx.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, task.hostId));
  if (host === undefined) throw new AppError("not_found");
  if (!understandsTask(understandsOf(host), task.request.kind)) throw new AppError("host_needs_upgrade");
  await ctx.ports.db.write(async (tx) => {
    await tx.delete(t.tasks).where(lt(t.tasks.deadlineAt, now - KEEP_MS));
    await tx.insert(t.tasks).values({
      id,
      hostId: task.hostId,
      kind: task.request.kind,
      params: task.request.params,
      subject: task.subject ?? null,
      state: "waiting",
      deadlineAt: task.deadlineAt,
      events: [],
      createdAt: now,
    });
  });
}

/**
 * Cancels tasks that have not ended: of one id, or of a subject (and kind). What no process has taken ends here, the rest
 * when its host answers. Answers how many there were.
 */
export async function cancelTasks(
  ctx: Context,
  which: { id: Id<"tsk"> } | { subject: string; kind?: TaskRequest["kind"] },
): Promise<number> {
  const now = ctx.ports.clock.now();
  const named: SQL | undefined =
    "id" in which
      ? eq(t.tasks.id, which.id)
      : and(eq(t.tasks.subject, which.subject), which.kind === undefined ? undefined : eq(t.tasks.kind, which.kind));
  const cancelled = await ctx.ports.db.write(async (tx) => {
    const outcome = failed("cancelled", "The task was cancelled before the host had it.");
    const ended = await tx
      .update(t.tasks)
      .set({ state: "ended", cancelledAt: now, outcome, params: null, endedAt: now })
      .where(and(named, eq(t.tasks.state, "waiting")))
      .returning({ hostId: t.tasks.hostId });
    const told = await tx
      .update(t.tasks)
      .set({ cancelledAt: now })
      .where(and(named, eq(t.tasks.state, "sent")))
      .returning({ hostId: t.tasks.hostId });
    return [...ended, ...told];
  });
  if (cancelled.length > 0) ctx.ports.fleet.wakeTasks([...new Set(cancelled.map((row) => row.hostId))]);
  return cancelled.length;
}

export type TaskLook = {
  events: t.KeptTaskEvent[];
  end: { outcome: TaskOutcome; clockOffsetMs: number | undefined } | undefined;
};

/**
 * How a task stands. One that can come to nothing any more (nobody took it, its link is gone, its deadline is long past) is
 * ended by this very look, so that whoever asks never waits for a process that died.
 */
export async function lookAtTask(ctx: Context, id: Id<"tsk">): Promise<TaskLook> {
  const [row] = await ctx.ports.db.read
    .select({ task: t.tasks, host: t.hosts })
    .from(t.tasks)
    .innerJoin(t.hosts, eq(t.hosts.id, t.tasks.hostId))
    .where(eq(t.tasks.id, id));
  if (row === undefined)
    return { events: [], end: { outcome: failed("task_gone", "The task's row is gone."), clockOffsetMs: undefined } };
  const { task, host } = row;
  if (task.state === "ended") return { events: task.events, end: endOf(task) };
  const verdict = hopeless(task, host, ctx.ports.clock.now());
  if (verdict === undefined) return { events: task.events, end: undefined };
  const [ended] = await ctx.ports.db.write((tx) =>
    tx
      .update(t.tasks)
      .set({ state: "ended", outcome: verdict, params: null, endedAt: ctx.ports.clock.now() })
      // Taken or answered meanwhile: then it was not hopeless.
      .where(and(eq(t.tasks.id, id), eq(t.tasks.state, task.state)))
      .returning(),
  );
  return { events: task.events, end: ended && endOf(ended) };
}

function endOf(task: typeof t.tasks.$inferSelect): TaskLook["end"] {
  const outcome = task.outcome ?? failed("task_gone", "The task ended without an outcome.");
  return { outcome, clockOffsetMs: task.clockOffsetMs ?? undefined };
}

function hopeless(
  task: typeof t.tasks.$inferSelect,
  host: typeof t.hosts.$inferSelect,
  now: number,
): TaskOutcome | undefined {
  if (task.state === "waiting" && now > Math.min(task.createdAt + TAKE_WITHIN_MS, task.deadlineAt))
    return failed("host_not_online", "No process holds the host's link.");
  if (task.state === "sent" && (host.epoch !== task.epoch || !isReachable(host, now)))
    return failed("link_lost", "The host's link was lost before the task ended.");
  if (now > task.deadlineAt + ANSWER_WITHIN_MS)
    return failed("deadline", "The host did not answer by the task's deadline.");
  return undefined;
}

function failed(code: string, detail: string): TaskOutcome {
  return { ok: false, error: { code, detail } };
}
