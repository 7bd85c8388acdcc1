import type { Id } from "../../shared/ids.ts";
import type { Fleet, Ports, TaskEvent } from "../ports/index.ts";
import { type Context, systemContext } from "../services/context.ts";
import { cancelTasks, createTask, lookAtTask, newTaskId } from "../services/tasks/ask.ts";
import type { Delay } from "./applied-waiters.ts";

/** Most events that may wait for a slow reader; the oldest are dropped, the end never is. */
const MAX_QUEUED = 10_000;
/** How often a waiting reader looks into the row: whoever holds the host's link may have died, and its hints be lost. */
const LOOK_EVERY_MS = 1_000;
/** How long after the deadline a database that does not answer is waited for. */
const GIVE_UP_AFTER_MS = 15_000;

/** One task that a request of this process waits for. */
class Ask {
  ended = false;
  /** The row is worth a look now. */
  due = false;
  readonly #queue: TaskEvent[] = [];
  #lastSeq = -1;
  #wake: () => void = () => {};

  event(seq: number, data: unknown): void {
    // It came by the bus and stands in the row: once is enough.
    if (this.ended || seq <= this.#lastSeq) return;
    this.#lastSeq = seq;
    if (this.#queue.length >= MAX_QUEUED) this.#queue.shift();
    this.#queue.push({ type: "event", seq, data });
    this.#wake();
  }

  end(end: Omit<Extract<TaskEvent, { type: "end" }>, "type">): void {
    if (this.ended) return;
    this.ended = true;
    this.#queue.push({ type: "end", ...end });
    this.#wake();
  }

  look(): void {
    this.due = true;
    this.#wake();
  }

  next(): TaskEvent | undefined {
    return this.#queue.shift();
  }

  /** Waits until something comes, at most so long; true when the row should be looked into. */
  async wait(delay: Delay, ms: number): Promise<boolean> {
    if (this.due) return true;
    if (this.#queue.length > 0) return false;
    await new Promise<void>((resolve) => {
      const callOff = delay(ms, resolve);
      this.#wake = () => {
        callOff();
        resolve();
      };
    });
    this.#wake = () => {};
    return this.due || this.#queue.length === 0;
  }
}

/**
 * The tasks that this process asked for. The database is what counts: a row says what is asked and what came of it, and
 * looking into it is enough. Events and hints, of this process or by the bus, only make it fast.
 */
export class TaskAsks {
  readonly #delay: Delay;
  readonly #asks = new Map<Id<"tsk">, Ask>();

  constructor(delay: Delay) {
    this.#delay = delay;
  }

  /** Whether this process asked for that task. */
  has(id: Id<"tsk">): boolean {
    return this.#asks.has(id);
  }

  event(id: Id<"tsk">, seq: number, data: unknown): void {
    this.#asks.get(id)?.event(seq, data);
  }

  /** The task's row has its outcome. */
  ended(id: Id<"tsk">): void {
    this.#asks.get(id)?.look();
  }

  /** Cancels all of them: the process drains. */
  async cancelAll(ports: Ports): Promise<void> {
    const ctx = systemContext(ports, "link");
    await Promise.allSettled([...this.#asks.keys()].map((id) => cancelTasks(ctx, { id })));
    for (const ask of this.#asks.values()) ask.look();
  }

  async *run(ports: Ports, ...[hostId, request, options]: Parameters<Fleet["runTask"]>): ReturnType<Fleet["runTask"]> {
    const ctx = systemContext(ports, "link");
    const { deadlineAt, subject, signal } = options;
    const id = newTaskId(ctx);
    const ask = new Ask();
    // Listen first: the row may be worked off before its insertion returns.
    this.#asks.set(id, ask);
    const cancel = () => {
      cancelTasks(ctx, { id }).then(
        () => ask.look(),
        (error) => ports.log.error("could not cancel a task", { task: id, error }),
      );
    };
    try {
      await createTask(ctx, id, { hostId, request, deadlineAt, subject });
      ports.fleet.wakeTasks([hostId]);
      signal?.addEventListener("abort", cancel, { once: true });
      if (signal?.aborted) cancel();
      yield* this.#follow(ctx, id, ask, deadlineAt);
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#asks.delete(id);
      if (!ask.ended) cancel();
    }
  }

  async *#follow(ctx: Context, id: Id<"tsk">, ask: Ask, deadlineAt: number): AsyncGenerator<TaskEvent> {
    for (;;) {
      for (let event = ask.next(); event !== undefined; event = ask.next()) {
        yield event;
        if (event.type === "end") return;
      }
      if (await ask.wait(this.#delay, LOOK_EVERY_MS)) await look(ctx, id, ask, deadlineAt);
    }
  }
}

async function look(ctx: Context, id: Id<"tsk">, ask: Ask, deadlineAt: number): Promise<void> {
  ask.due = false;
  try {
    const { events, end } = await lookAtTask(ctx, id);
    for (const { seq, data } of events) ask.event(seq, data);
    if (end !== undefined) ask.end(end);
  } catch (error) {
    ctx.ports.log.warn("could not look at a task", { task: id, error });
    // A database that comes back in time has the outcome; one that stays away must not keep anybody waiting.
    if (ctx.ports.clock.now() > deadlineAt + GIVE_UP_AFTER_MS) throw error;
  }
}
