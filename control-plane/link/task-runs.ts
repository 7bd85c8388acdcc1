import type { Id } from "../../shared/ids.ts";
import type { TaskOutcome } from "../../shared/protocol/tasks.ts";
import type { TaskEvent } from "../ports/index.ts";

/** Most events that may wait for a slow reader; the oldest are dropped, the end never is. */
const MAX_QUEUED = 10_000;

class Run {
  ended = false;
  readonly events: AsyncIterable<TaskEvent>;
  readonly owner: unknown;
  readonly #queue: TaskEvent[] = [];
  #wake: () => void = () => {};

  constructor(owner: unknown) {
    this.owner = owner;
    this.events = this.#iterate();
  }

  push(event: TaskEvent): void {
    if (this.ended) return;
    if (event.type === "end") this.ended = true;
    if (this.#queue.length >= MAX_QUEUED) this.#queue.shift();
    this.#queue.push(event);
    this.#wake();
  }

  async *#iterate(): AsyncGenerator<TaskEvent> {
    for (;;) {
      const event = this.#queue.shift();
      if (event !== undefined) {
        yield event;
        if (event.type === "end") return;
        continue;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** The tasks running on hosts. An event counts only when it comes from the session that was given the task. */
export class TaskRuns {
  readonly #runs = new Map<Id<"tsk">, Run>();

  start(id: Id<"tsk">, owner: unknown): Run {
    const run = new Run(owner);
    this.#runs.set(id, run);
    return run;
  }

  event(id: Id<"tsk">, owner: unknown, seq: number, data: unknown): void {
    const run = this.#runs.get(id);
    if (run?.owner === owner) run?.push({ type: "event", seq, data });
  }

  end(id: Id<"tsk">, owner: unknown, outcome: TaskOutcome): void {
    const run = this.#runs.get(id);
    if (run?.owner === owner) run?.push({ type: "end", outcome });
  }

  /** The link is gone: its tasks end as lost. */
  lost(owner: unknown): void {
    for (const run of this.#runs.values())
      if (run.owner === owner)
        run.push({
          type: "end",
          outcome: {
            ok: false,
            error: { code: "link_lost", detail: "The host's link was lost before the task ended." },
          },
        });
  }

  forget(id: Id<"tsk">): void {
    this.#runs.delete(id);
  }
}
