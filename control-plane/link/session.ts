import type { Id } from "../../shared/ids.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import {
  type AgentFrame,
  HEARTBEAT_MS,
  type HelloFrame,
  type HostEvent,
  type Observation,
  parseAgentFrame,
  type ServerFrame,
  SILENCE_MS,
} from "../../shared/protocol/frames.ts";
import type { TaskOutcome } from "../../shared/protocol/tasks.ts";
import { whyTooLarge } from "./state-size.ts";

/** A host's state, signed, as it is sent. */
export type SignedState = {
  rev: number;
  sha256: string;
  items: StateItem[];
  signature: { keyId: string; value: string };
};

/** What the session wants done. The shell does them in order and hands results back. */
export type Action =
  | { do: "send"; frame: ServerFrame }
  /** Check the signature and the epoch, then call `identified`. */
  | { do: "identify"; hello: HelloFrame; nonce: string }
  /** Read and sign the host's desired state, then call `loaded`. */
  | { do: "load" }
  | { do: "ack"; ack: Extract<AgentFrame, { t: "ack" }>; pushedAt: number | undefined }
  | { do: "observe"; values: Observation; events: readonly HostEvent[] }
  | { do: "taskEvent"; id: Id<"tsk">; seq: number; data: unknown }
  | { do: "taskEnd"; id: Id<"tsk">; outcome: TaskOutcome }
  /** The offset of the host's clock, measured by a ping's midpoint. */
  | { do: "clockOffset"; ms: number }
  | { do: "count"; what: "unknown_frame" | "refused_frame" }
  /** Something of this host that operators should see. */
  | { do: "report"; kind: "ack_refused" | "state_too_large"; detail: string }
  | { do: "close"; reason: CloseReason };

export type CloseReason =
  | "bad_frame"
  | "refused"
  | "stale_epoch"
  | "superseded"
  | "draining"
  | "silent"
  | "removed"
  | "overrun"
  | "hello_timeout"
  | "socket_closed";

export type Identified =
  | { ok: true; session: Id<"lnk"> }
  | { ok: false; why: "refused" }
  | { ok: false; why: "stale_epoch"; epoch: number };

type Phase = "challenged" | "identifying" | "joined" | "closed";

/** A state that is not acknowledged for so long does not hold up the next, and is sent again if there is none. */
const ACK_TIMEOUT_MS = 60_000;
/** How long a socket may stay without a hello. */
const HELLO_TIMEOUT_MS = 10_000;
/** How long checking a hello may take: in a storm most of it is waiting for our own gate, which is no fault of the host's. */
const IDENTIFY_TIMEOUT_MS = 60_000;

/**
 * The control plane's side of one link, without sockets, clocks or a database: what comes in goes through a method, what
 * should happen comes out as actions. `now` is a monotonic clock in ms, `wallNow` UTC ms.
 */
export class ServerSession {
  readonly #nonce: string;
  #phase: Phase = "challenged";
  /** When the phase began. */
  #since: number;
  #lastHeardAt: number;
  #lastPingAt: number;
  #pingId = 0;
  #pings = new Map<number, { sentAt: number; wall: number }>();
  /** What the host says it holds; a push of the same is shortened to "unchanged". */
  #held: { rev: number; sha256: string } | null = null;
  /** One state in flight; what changes meanwhile is sent after its ack, once, as the latest. */
  #inFlight: { rev: number; at: number } | undefined;
  #loading = false;
  #dirty = false;
  #sentRev: number | undefined;
  /** The hash of each revision sent on this link, but for those older than one acknowledged since. */
  readonly #sent = new Map<number, string>();
  /** What was sent last was not acknowledged in time: it goes out again, whether or not there is a newer one. */
  #again = false;

  constructor(nonce: string, now: number) {
    this.#nonce = nonce;
    this.#since = now;
    this.#lastHeardAt = now;
    this.#lastPingAt = now;
  }

  get joined(): boolean {
    return this.#phase === "joined";
  }

  /** The revision sent last, or undefined before the first. */
  get sentRev(): number | undefined {
    return this.#sentRev;
  }

  start(wallNow: number): Action[] {
    return [{ do: "send", frame: { t: "challenge", nonce: this.#nonce, serverTime: wallNow } }];
  }

  /** A frame arrived. */
  receive(text: string, now: number, wallNow: number): Action[] {
    if (this.#phase === "closed") return [];
    this.#lastHeardAt = now;
    const parsed = parseAgentFrame(text);
    if (parsed.kind === "unknown") return [{ do: "count", what: "unknown_frame" }];
    if (parsed.kind === "bad") return [{ do: "count", what: "refused_frame" }, ...this.close("bad_frame")];
    const { frame } = parsed;
    if (frame.t === "ping") return [{ do: "send", frame: { t: "pong", id: frame.id, at: wallNow } }];
    if (this.#phase === "challenged") {
      if (frame.t !== "hello") return [{ do: "count", what: "refused_frame" }, ...this.close("bad_frame")];
      this.#phase = "identifying";
      this.#since = now;
      this.#held = heldBy(frame);
      return [{ do: "identify", hello: frame, nonce: this.#nonce }];
    }
    if (this.#phase !== "joined" || frame.t === "hello")
      return [{ do: "count", what: "refused_frame" }, ...this.close("bad_frame")];
    return this.#joinedFrame(frame, now);
  }

  #joinedFrame(frame: Exclude<AgentFrame, { t: "hello" | "ping" }>, now: number): Action[] {
    switch (frame.t) {
      case "pong": {
        const ping = this.#pings.get(frame.id);
        this.#pings.clear();
        if (ping === undefined) return [];
        const roundTrip = now - ping.sentAt;
        return [{ do: "clockOffset", ms: Math.round(frame.at - (ping.wall + roundTrip / 2)) }];
      }
      case "ack": {
        const sha256 = this.#sent.get(frame.rev);
        // A revision that was never sent on this link, or is older than what was acknowledged, is a lie or a mix-up: it proves nothing.
        if (sha256 === undefined) return [{ do: "count", what: "refused_frame" }];
        if (sha256 !== frame.sha256) return this.#wrongAck(frame.rev);
        for (const rev of this.#sent.keys()) if (rev < frame.rev) this.#sent.delete(rev);
        const current = this.#inFlight?.rev === frame.rev ? this.#inFlight : undefined;
        if (current !== undefined) {
          this.#inFlight = undefined;
          this.#held = { rev: frame.rev, sha256: frame.sha256 };
        }
        return [{ do: "ack", ack: frame, pushedAt: current?.at }, ...(current !== undefined ? this.#next() : [])];
      }
      case "observe":
        return [{ do: "observe", values: frame.values, events: frame.events }];
      case "task.event":
        return [{ do: "taskEvent", id: frame.id, seq: frame.seq, data: frame.data }];
      case "task.end":
        return [{ do: "taskEnd", id: frame.id, outcome: frame.outcome }];
    }
  }

  /** The host says it verified a revision, and means other content than it was sent: operators should know, and it starts anew. */
  #wrongAck(rev: number): Action[] {
    return [
      { do: "count", what: "refused_frame" },
      {
        do: "report",
        kind: "ack_refused",
        detail: `the host verified revision ${rev} with other content than it was sent`,
      },
      ...this.close("bad_frame"),
    ];
  }

  /** The answer to an `identify` action. */
  identified(result: Identified): Action[] {
    if (this.#phase !== "identifying") return [];
    if (!result.ok) return this.close(result.why, result.why === "stale_epoch" ? result.epoch : undefined);
    this.#phase = "joined";
    this.#loading = true;
    return [
      {
        do: "send",
        frame: {
          ...{ t: "welcome", session: result.session, heartbeatMs: HEARTBEAT_MS, silenceMs: SILENCE_MS },
          anyEvents: true,
        },
      },
      { do: "load" },
    ];
  }

  /** The host's desired state changed. */
  changed(): Action[] {
    if (this.#phase !== "joined") return [];
    if (this.#loading || this.#inFlight !== undefined) {
      this.#dirty = true;
      return [];
    }
    this.#loading = true;
    return [{ do: "load" }];
  }

  /** The answer to a `load` action. */
  loaded(state: SignedState, now: number): Action[] {
    this.#loading = false;
    if (this.#phase !== "joined") return [];
    // Nothing new, unless this is the first state of the session, which always goes out.
    if (this.#sentRev === state.rev && !this.#again) return this.#next();
    this.#again = false;
    this.#sentRev = state.rev;
    // The host would refuse the frame and come back for it for ever: it keeps what it has, and operators are told.
    const tooLarge = whyTooLarge(state.items);
    if (tooLarge !== undefined) {
      const detail = `revision ${state.rev} can't be sent: ${tooLarge}`;
      return [{ do: "report", kind: "state_too_large", detail }, ...this.#next()];
    }
    this.#sent.set(state.rev, state.sha256);
    this.#inFlight = { rev: state.rev, at: now };
    const unchanged = this.#held?.rev === state.rev && this.#held.sha256 === state.sha256;
    const { rev, sha256, items, signature } = state;
    return [{ do: "send", frame: { t: "state", rev, sha256, items: unchanged ? null : items, signature } }];
  }

  #next(): Action[] {
    if (!this.#dirty) return [];
    this.#dirty = false;
    return this.changed();
  }

  /** Time passed. Call it every second or so. */
  tick(now: number, wallNow: number): Action[] {
    if (this.#phase === "closed") return [];
    if (this.#phase === "challenged") return now - this.#since > HELLO_TIMEOUT_MS ? this.close("hello_timeout") : [];
    if (this.#phase === "identifying")
      return now - this.#since > IDENTIFY_TIMEOUT_MS ? this.close("hello_timeout") : [];
    if (now - this.#lastHeardAt > SILENCE_MS) return this.close("silent");
    if (this.#inFlight !== undefined && now - this.#inFlight.at > ACK_TIMEOUT_MS) {
      this.#inFlight = undefined;
      this.#again = true;
      return this.changed();
    }
    if (now - this.#lastPingAt < HEARTBEAT_MS) return [];
    return this.ping(now, wallNow);
  }

  /** A heartbeat; its answer also measures the clock offset. */
  ping(now: number, wallNow: number): Action[] {
    this.#lastPingAt = now;
    const id = ++this.#pingId;
    this.#pings.set(id, { sentAt: now, wall: wallNow });
    return [{ do: "send", frame: { t: "ping", id, at: wallNow } }];
  }

  /** Ends the session, telling the host why where it can act on it. */
  close(reason: CloseReason, epochOrDelay?: number): Action[] {
    if (this.#phase === "closed") return [];
    this.#phase = "closed";
    const bye = BYES[reason];
    if (bye === undefined) return [{ do: "close", reason }];
    const frame: ServerFrame = {
      t: "bye",
      reason: bye.reason,
      reconnectAfterMs: reason === "draining" ? (epochOrDelay ?? bye.reconnectAfterMs) : bye.reconnectAfterMs,
      ...(reason === "stale_epoch" && epochOrDelay !== undefined ? { epoch: epochOrDelay } : {}),
    };
    return [
      { do: "send", frame },
      { do: "close", reason },
    ];
  }
}

/**
 * What a host holds, as far as its hello proves it: a later state that it took and could not apply whole may have changed what
 * it verified before.
 */
function heldBy({ applied, accepted }: HelloFrame): { rev: number; sha256: string } | null {
  if (applied === null || accepted == null) return applied;
  return accepted.rev === applied.rev && accepted.sha256 === applied.sha256 ? applied : null;
}

type Bye = Extract<ServerFrame, { t: "bye" }>;

/** What a host is told, and how long it should stay away. */
const BYES: Partial<Record<CloseReason, Pick<Bye, "reason" | "reconnectAfterMs">>> = {
  bad_frame: { reason: "bad_frame", reconnectAfterMs: 5_000 },
  refused: { reason: "refused", reconnectAfterMs: 60_000 },
  stale_epoch: { reason: "stale_epoch", reconnectAfterMs: 0 },
  superseded: { reason: "superseded", reconnectAfterMs: 10_000 },
  draining: { reason: "draining", reconnectAfterMs: 1_000 },
  removed: { reason: "removed", reconnectAfterMs: 3_600_000 },
  overrun: { reason: "bad_frame", reconnectAfterMs: 30_000 },
};
