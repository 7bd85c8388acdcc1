import type { Sealed } from "../../shared/protocol/tasks.ts";
import type { Endpoint } from "../link/endpoints.ts";

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
  /** By which way this agent is linked to the control plane now, or tries to be. */
  way(): Endpoint;
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
