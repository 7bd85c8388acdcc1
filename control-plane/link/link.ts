import type { Id } from "../../shared/ids.ts";
import type { HelloFrame } from "../../shared/protocol/frames.ts";
import type { TaskOutcome } from "../../shared/protocol/tasks.ts";
import type { ServerSession } from "./session.ts";

/** The socket under a session, whatever the runtime calls it. */
export interface Socket {
  send(text: string): void;
  close(code: number, reason: string): void;
}

/** What the shell calls when its socket does something. */
export interface LinkHandle {
  message(text: string): void;
  closed(): void;
}

/** One socket of a host, from its opening to its end. */
export type Link = {
  readonly session: ServerSession;
  readonly socket: Socket;
  hello?: HelloFrame;
  role: string;
  clockOffsetMs?: number;
  seen: boolean;
  /** Effects of one session run one after another, in the order its frames came. */
  tail: Promise<void>;
  /** How many of them wait. */
  waiting: number;
  /** The state it was sent last is that of a host that has been retired: empty. */
  retired: boolean;
};

export type LinkClock = { monotonic(): number; wall(): number };

/** What happens on links that is somebody else's business. */
export interface LinkListener {
  joined(hostId: Id<"hst">, epoch: number): void;
  /** A host verified a revision, but for these items. */
  applied(hostId: Id<"hst">, rev: number, failed: string[]): void;
  taskEvent(link: Link, id: Id<"tsk">, seq: number, data: unknown): void;
  taskEnd(link: Link, id: Id<"tsk">, outcome: TaskOutcome): void;
  left(link: Link): void;
}
