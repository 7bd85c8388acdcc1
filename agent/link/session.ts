import { type StateItem, stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import {
  type AgentFrame,
  HEARTBEAT_MS,
  type HelloFrame,
  type HostEvent,
  helloSignedBytes,
  parseServerFrame,
  type ServerFrame,
  SILENCE_MS,
  type StateFrame,
  type TaskFrame,
} from "../../shared/protocol/frames.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";
import { reconnectDelay } from "./backoff.ts";
import { SeenTasks } from "./seen-tasks.ts";

/** Two clocks: `mono` never jumps and measures silence; `wall` is UTC ms and is compared with what others say. */
export type Now = { mono: number; wall: number };
type Revision = { rev: number; sha256: string };
export type AckResults = Extract<AgentFrame, { t: "ack" }>["results"];

export interface SessionSetup {
  hostId: HelloFrame["hostId"];
  version: string;
  bootId: string;
  capabilities: string[];
  /** Base URLs of the control plane, tried in turn. */
  endpoints: readonly string[];
  controlPlaneKeyId: string;
  /** The greatest epoch ever used. */
  epoch: number;
  accepted: Revision | null;
  applied: Revision | null;
  sign(bytes: Uint8Array): string;
  verify(bytes: Uint8Array, signature: string): boolean;
  sha256(items: readonly StateItem[]): string;
  /** In [0, 1). */
  random(): number;
}

export type SessionInput =
  | { type: "start" | "opened" | "tick" | "stop" }
  | { type: "text"; text: string }
  | { type: "binary" }
  | { type: "closed"; why: string; retryAfterMs?: number | undefined }
  /** A pass over this revision ended; `allOk` when every item is applied and verified. */
  | { type: "report"; rev: number; sha256: string; results: AckResults; allOk: boolean }
  | { type: "send"; frame: AgentFrame };

export type SessionAction =
  | { type: "connect"; endpoint: string }
  | { type: "close"; code: number; reason: string }
  | { type: "send"; frame: AgentFrame }
  /** Durable before the next action of the list is done. */
  | { type: "saveEpoch"; epoch: number }
  | { type: "saveApplied"; applied: Revision }
  /** Keep it on disk, then bring the kernel to it. */
  | { type: "accept"; state: Revision & { items: StateItem[] } }
  /** Nothing new: look again and report. */
  | { type: "recheck" }
  | { type: "task"; task: TaskFrame }
  | { type: "cancelTask"; id: string }
  | { type: "linked" | "unlinked" }
  | { type: "event"; event: HostEvent }
  | { type: "note"; message: string };

type Phase = "idle" | "connecting" | "challenge" | "welcome" | "state" | "linked" | "waiting" | "stopped";

/** From connecting to the first state: a server that accepts and says nothing is as good as dead. */
const JOIN_MS = 20_000;
/** A `stale_epoch` further ahead than this is not believed: epochs are times, and a lie must not use up their range. */
const MOST_EPOCH_AHEAD_MS = 100 * 366 * 86_400_000;

/**
 * The agent's end of the link (see the protocol in shared/protocol/frames.ts), without sockets, timers or files: inputs
 * in, actions out, in the order they must be done. After a `close` action the caller forgets that socket and passes on
 * nothing more of it.
 */
export class LinkSession {
  readonly counters = { unknownFrames: 0, refused: 0, connects: 0 };
  #phase: Phase = "idle";
  readonly #setup: SessionSetup;
  #epoch: number;
  #accepted: Revision | null;
  #applied: Revision | null;
  #attempt = 0;
  #endpointIndex = 0;
  #retryAt = 0;
  #joinBy = 0;
  #heardAt = 0;
  #pingAt = 0;
  #pingId = 0;
  #heartbeatMs = HEARTBEAT_MS;
  #silenceMs = SILENCE_MS;
  readonly #seen = new SeenTasks();

  constructor(setup: SessionSetup) {
    this.#setup = setup;
    this.#epoch = setup.epoch;
    this.#accepted = setup.accepted;
    this.#applied = setup.applied;
  }

  get phase(): Phase {
    return this.#phase;
  }

  get accepted(): Revision | null {
    return this.#accepted;
  }

  /** Base URL in use now, or the next to be tried. */
  get endpoint(): string {
    const { endpoints } = this.#setup;
    return endpoints[this.#endpointIndex % endpoints.length] ?? "";
  }

  /** When `tick` is due next, in monotonic ms; undefined when nothing is waited for. */
  nextWake(): number | undefined {
    switch (this.#phase) {
      case "idle":
      case "stopped":
        return undefined;
      case "waiting":
        return this.#retryAt;
      case "linked":
        return Math.min(this.#pingAt, this.#heardAt + this.#silenceMs);
      default:
        return this.#joinBy;
    }
  }

  handle(input: SessionInput, now: Now): SessionAction[] {
    if (this.#phase === "stopped") return [];
    switch (input.type) {
      case "start":
        return this.#phase === "idle" ? this.#connect(now) : [];
      case "stop": {
        const open = this.#phase !== "idle" && this.#phase !== "waiting";
        this.#phase = "stopped";
        return open ? [{ type: "close", code: 1001, reason: "stopping" }, { type: "unlinked" }] : [];
      }
      case "opened":
        if (this.#phase === "connecting") this.#phase = "challenge";
        return [];
      case "closed":
        if (this.#phase === "waiting" || this.#phase === "idle") return [];
        return [{ type: "note", message: input.why }, ...this.#wait(now, input.retryAfterMs)];
      case "tick":
        return this.#tick(now);
      case "binary":
        return this.#refuse(now, 1003, "frames are text");
      case "text":
        return this.#text(input.text, now);
      case "report":
        return this.#report(input);
      case "send":
        return this.#phase === "linked" ? [{ type: "send", frame: input.frame }] : [];
    }
  }

  #connect(now: Now): SessionAction[] {
    this.#phase = "connecting";
    this.#joinBy = now.mono + JOIN_MS;
    this.counters.connects += 1;
    return [{ type: "connect", endpoint: this.endpoint }];
  }

  /** The link is gone: the next attempt goes to the next endpoint, after a while. */
  #wait(now: Now, askedMs?: number): SessionAction[] {
    this.#retryAt = now.mono + reconnectDelay(this.#attempt, this.#setup.random(), askedMs);
    this.#attempt += 1;
    this.#endpointIndex += 1;
    this.#phase = "waiting";
    return [{ type: "unlinked" }];
  }

  #refuse(now: Now, code: number, reason: string): SessionAction[] {
    if (this.#phase === "idle" || this.#phase === "waiting") return [];
    this.counters.refused += 1;
    return [{ type: "close", code, reason: reason.slice(0, 120) }, ...this.#wait(now)];
  }

  #tick(now: Now): SessionAction[] {
    switch (this.#phase) {
      case "waiting":
        return now.mono >= this.#retryAt ? this.#connect(now) : [];
      case "linked": {
        if (now.mono >= this.#heardAt + this.#silenceMs)
          return [{ type: "close", code: 4000, reason: "silence" }, ...this.#wait(now)];
        if (now.mono < this.#pingAt) return [];
        this.#pingAt = now.mono + this.#heartbeatMs;
        this.#pingId += 1;
        return [{ type: "send", frame: { t: "ping", id: this.#pingId, at: now.wall } }];
      }
      case "connecting":
      case "challenge":
      case "welcome":
      case "state":
        if (now.mono < this.#joinBy) return [];
        return [
          { type: "close", code: 4000, reason: `no answer while waiting for ${this.#phase}` },
          { type: "note", message: `no answer within ${JOIN_MS} ms` },
          ...this.#wait(now),
        ];
      default:
        return [];
    }
  }

  #text(text: string, now: Now): SessionAction[] {
    if (this.#phase === "idle" || this.#phase === "waiting" || this.#phase === "connecting") return [];
    this.#heardAt = now.mono;
    const parsed = parseServerFrame(text);
    if (parsed.kind === "unknown") {
      this.counters.unknownFrames += 1;
      return [];
    }
    if (parsed.kind === "bad") return this.#refuse(now, 4001, parsed.reason);
    return this.#frame(parsed.frame, now);
  }

  #frame(frame: ServerFrame, now: Now): SessionAction[] {
    switch (frame.t) {
      case "challenge":
        return this.#phase === "challenge" ? this.#hello(frame.nonce, now) : this.#unexpected(frame, now);
      case "welcome":
        if (this.#phase !== "welcome") return this.#unexpected(frame, now);
        this.#phase = "state";
        this.#heartbeatMs = Math.max(1000, frame.heartbeatMs);
        this.#silenceMs = Math.max(2 * this.#heartbeatMs, frame.silenceMs);
        return [];
      case "state":
        if (this.#phase !== "state" && this.#phase !== "linked") return this.#unexpected(frame, now);
        return this.#state(frame, now);
      case "task":
        return this.#phase === "linked" ? this.#task(frame, now) : this.#unexpected(frame, now);
      case "task.cancel":
        return this.#phase === "linked" ? [{ type: "cancelTask", id: frame.id }] : [];
      case "ping":
        return [{ type: "send", frame: { t: "pong", id: frame.id, at: now.wall } }];
      case "pong":
        return [];
      case "bye":
        if (frame.reason === "stale_epoch" && frame.epoch !== undefined)
          if (frame.epoch <= now.wall + MOST_EPOCH_AHEAD_MS) this.#epoch = Math.max(this.#epoch, frame.epoch);
        return [
          { type: "note", message: `the control plane said bye: ${frame.reason}` },
          { type: "close", code: 1000, reason: "bye" },
          ...this.#wait(now, frame.reconnectAfterMs),
        ];
    }
  }

  #unexpected(frame: ServerFrame, now: Now): SessionAction[] {
    return this.#refuse(now, 4001, `${frame.t} not expected while waiting for ${this.#phase}`);
  }

  #hello(nonce: string, now: Now): SessionAction[] {
    const { hostId, version, bootId, capabilities, sign } = this.#setup;
    this.#phase = "welcome";
    this.#epoch = Math.max(this.#epoch + 1, Math.floor(now.wall));
    const epoch = this.#epoch;
    const signature = sign(helloSignedBytes({ nonce, hostId, epoch }));
    return [
      { type: "saveEpoch", epoch },
      {
        type: "send",
        frame: { t: "hello", hostId, epoch, signature, version, bootId, capabilities, applied: this.#applied },
      },
    ];
  }

  #state(frame: StateFrame, now: Now): SessionAction[] {
    const { hostId, controlPlaneKeyId, verify, sha256 } = this.#setup;
    const { rev, items } = frame;
    if (frame.signature.keyId !== controlPlaneKeyId)
      return this.#refuseForged(now, "state signed with a key that is not pinned");
    if (!verify(stateSignedBytes({ hostId, rev, sha256: frame.sha256 }), frame.signature.value))
      return this.#refuseForged(now, "state signature does not match (forged, or meant for another host)");
    if (items && sha256(items) !== frame.sha256) return this.#refuseForged(now, "state items do not match their hash");
    const accepted = this.#accepted;
    if (accepted && rev < accepted.rev) {
      // Signed, so an honest server said it once: stale. The link stays, for the state that follows or for an operator.
      this.counters.refused += 1;
      return [this.#refusal(now, `state ${rev} is older than ${accepted.rev}, which this host already accepted`)];
    }
    if (!items && !(accepted && accepted.rev === rev && accepted.sha256 === frame.sha256))
      return this.#refuse(now, 4001, "state said to be unchanged is not the one this host has");

    const joined = this.#phase === "state";
    this.#phase = "linked";
    this.#accepted = { rev, sha256: frame.sha256 };
    if (joined) {
      this.#attempt = 0;
      this.#pingAt = now.mono + this.#heartbeatMs;
    }
    return [
      ...(joined ? [{ type: "linked" } as const] : []),
      items ? { type: "accept", state: { rev, sha256: frame.sha256, items } } : { type: "recheck" },
    ];
  }

  #task(frame: TaskFrame, now: Now): SessionAction[] {
    const { hostId, controlPlaneKeyId, verify } = this.#setup;
    const { id, kind, params, deadlineAt } = frame;
    if (
      frame.signature.keyId !== controlPlaneKeyId ||
      !verify(taskSignedBytes({ hostId, id, kind, params, deadlineAt }), frame.signature.value)
    )
      return this.#refuseForged(now, "task signature does not match (forged, or meant for another host)");
    const refusal = this.#seen.admit(id, deadlineAt, now.wall);
    if (refusal) {
      this.counters.refused += 1;
      return [this.#refusal(now, `task ${id}: ${refusal}`)];
    }
    return [{ type: "task", task: frame }];
  }

  /** Whoever sends forged frames is not the control plane, or not only: try another way to it. */
  #refuseForged(now: Now, reason: string): SessionAction[] {
    return [this.#refusal(now, reason), ...this.#refuse(now, 4003, reason)];
  }

  #refusal(now: Now, detail: string): SessionAction {
    return { type: "event", event: { at: now.wall, kind: "frame_refused", detail: detail.slice(0, 500) } };
  }

  #report(report: Extract<SessionInput, { type: "report" }>): SessionAction[] {
    const { rev, sha256, results, allOk } = report;
    const actions: SessionAction[] = [];
    if (allOk && (this.#applied?.rev !== rev || this.#applied.sha256 !== sha256)) {
      this.#applied = { rev, sha256 };
      actions.push({ type: "saveApplied", applied: this.#applied });
    }
    // A report on a state that has been replaced meanwhile says nothing the control plane waits for.
    const current = this.#accepted?.rev === rev && this.#accepted.sha256 === sha256;
    if (this.#phase === "linked" && current) actions.push({ type: "send", frame: { t: "ack", rev, sha256, results } });
    return actions;
  }
}
