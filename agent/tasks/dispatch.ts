import type { AgentFrame, TaskFrame } from "../../shared/protocol/frames.ts";
import { type TaskOutcome, taskParamsSchemas } from "../../shared/protocol/tasks.ts";
import { type Log, sentence } from "../log.ts";
import { type TaskContext, TaskError, type TaskRunner } from "./types.ts";

/** Loads a runner when its first task comes: an idle agent holds no code for captures. */
export type RunnerLoaders = Record<keyof typeof taskParamsSchemas, () => Promise<TaskRunner<never>>>;

export interface DispatchDeps {
  loaders: RunnerLoaders;
  log: Log;
  /** Sends a frame when there is a link; false when it was not sent. */
  send(frame: AgentFrame): boolean;
  context: Pick<TaskContext, "hostInfo" | "openSealed" | "way" | "now">;
}

/** Most tasks at once; pings and captures are small, but a host is not there for them. */
const MOST_TASKS = 16;
/** How long a runner may take to end after its abort before it is answered for. */
const GRACE_MS = 5000;
const MOST_UNSENT = 100;

/** Runs the typed tasks of the control plane. Whoever calls {@link start} has checked signature, deadline and replay. */
export class TaskDispatcher {
  readonly #deps: DispatchDeps;
  readonly #running = new Map<string, AbortController>();
  /** Ends that came while there was no link; told after the next one stands. */
  #unsent: AgentFrame[] = [];

  constructor(deps: DispatchDeps) {
    this.#deps = deps;
  }

  get running(): number {
    return this.#running.size;
  }

  /** Begins a task; its end is always answered by one `task.end`. */
  start(task: TaskFrame): void {
    const { log } = this.#deps;
    if (this.#running.size >= MOST_TASKS) {
      this.#end(task.id, failure("too_many_tasks", `This host already runs ${MOST_TASKS} tasks.`));
      return;
    }
    const abort = new AbortController();
    this.#running.set(task.id, abort);
    log.info("task started", { task: task.id, kind: task.kind });
    void this.#run(task, abort).then((outcome) => {
      this.#running.delete(task.id);
      log.info("task ended", { task: task.id, ok: outcome.ok, ...(outcome.ok ? {} : { code: outcome.error.code }) });
      this.#end(task.id, outcome);
    });
  }

  cancel(id: string): void {
    this.#running.get(id)?.abort(new TaskError("cancelled", "The task was cancelled."));
  }

  /** Tells what ended meanwhile. */
  linked(): void {
    const unsent = this.#unsent;
    this.#unsent = [];
    for (const frame of unsent) this.#sendOrKeep(frame);
  }

  /** Aborts everything; the agent stops. */
  stop(): void {
    for (const abort of this.#running.values()) abort.abort(new TaskError("stopping", "The agent is stopping."));
  }

  async #run(task: TaskFrame, abort: AbortController): Promise<TaskOutcome> {
    const { loaders, context } = this.#deps;
    if (!Object.hasOwn(taskParamsSchemas, task.kind))
      return failure("unknown_kind", `This agent knows no task "${task.kind.slice(0, 32)}".`);
    const kind = task.kind as keyof typeof taskParamsSchemas;
    const parsed = taskParamsSchemas[kind].safeParse(task.params);
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      return failure("bad_params", `${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.trim());
    }
    const late = new TaskError("deadline", "The task reached its deadline.");
    const timer = setTimeout(() => abort.abort(late), Math.max(0, task.deadlineAt - context.now()));
    let seq = 0;
    const emit = (data: unknown) => {
      if (!this.#running.has(task.id)) return;
      this.#deps.send({ t: "task.event", id: task.id, seq: seq++, data });
    };
    try {
      const run = await loaders[kind]();
      // Cancelled while it was being loaded: a runner would never hear of it.
      abort.signal.throwIfAborted();
      const work = run(parsed.data as never, { ...context, signal: abort.signal, emit });
      return { ok: true, result: await Promise.race([work, stuck(abort.signal)]) };
    } catch (error) {
      if (error instanceof TaskError) return failure(error.code, error.message);
      this.#deps.log.error("a task failed unexpectedly", { task: task.id, why: sentence(error) });
      return failure("task_failed", sentence(error));
    } finally {
      clearTimeout(timer);
      // Whatever a runner left under way ends with it.
      abort.abort(new TaskError("ended", "The task has ended."));
    }
  }

  #end(id: TaskFrame["id"], outcome: TaskOutcome): void {
    this.#sendOrKeep({ t: "task.end", id, outcome });
  }

  #sendOrKeep(frame: AgentFrame): void {
    if (!this.#deps.send(frame) && this.#unsent.length < MOST_UNSENT) this.#unsent.push(frame);
  }
}

function failure(code: string, detail: string): TaskOutcome {
  return { ok: false, error: { code: code.slice(0, 64), detail: detail.slice(0, 2000) } };
}

/** Rejects when a runner ignores its abort, so that every task ends. */
function stuck(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const later = () => {
      const reason = signal.reason instanceof TaskError ? signal.reason : new TaskError("cancelled", "Cancelled.");
      setTimeout(() => reject(reason), GRACE_MS).unref();
    };
    if (signal.aborted) later();
    else signal.addEventListener("abort", later, { once: true });
  });
}
