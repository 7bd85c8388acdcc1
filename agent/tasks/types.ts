import type { Sealed } from "../../shared/protocol/tasks.ts";

/** What a task may use of its host. Everything else (argv, sockets) it brings itself. */
export interface TaskContext {
  /** Aborted on `task.cancel`, at the deadline and when the agent stops. The runner then ends soon, with a result or an error. */
  readonly signal: AbortSignal;
  /** Sends a `task.event`. Dropped, never queued without bound, while there is no link. */
  emit(data: unknown): void;
  readonly hostInfo: {
    /** Our WireGuard interface, when this host has one. */
    tunnelInterface(): string | undefined;
    /** The interface of the default route. Throws when there is none. */
    outsideInterface(): Promise<string>;
  };
  /** Opens what was sealed to this agent's box key. Throws TaskError("bad_sealed") when it was not. */
  openSealed(sealed: Sealed): Uint8Array;
  /** Base URL (http or https, no trailing slash) of the control plane endpoint this agent is linked to now. */
  endpoint(): string;
  /** Where the link's packets really go, when it goes through another host. */
  via?(): { address: string; port: number } | undefined;
  /** UTC milliseconds. */
  now(): number;
}

/** Runs one task to its result, which goes into `task.end`. Throws {@link TaskError} for an outcome with a code. */
export type TaskRunner<P> = (params: P, ctx: TaskContext) => Promise<unknown>;

/** How a task fails: a short stable code and a sentence for the operator. Never a secret in either. */
export class TaskError extends Error {
  readonly code: string;

  constructor(code: string, detail: string) {
    super(detail);
    this.name = "TaskError";
    this.code = code;
  }
}
