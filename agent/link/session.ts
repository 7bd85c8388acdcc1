import {
  HEARTBEAT_MS,
  helloSignedBytes,
  parseServerFrame,
  type ServerFrame,
  SILENCE_MS,
  type StateFrame,
  type TaskFrame,
} from "../../shared/protocol/frames.ts";
import { judgeState, judgeTask, type Verdict } from "./admission.ts";
import { reconnectDelay } from "./backoff.ts";
import { SeenTasks } from "./seen-tasks.ts";
import type { Now, Revision, SessionAction, SessionInput, SessionSetup } from "./session-types.ts";

type Phase = "idle" | "connecting" | "challenge" | "welcome" | "state" | "linked" | "waiting" | "stopped";

const LONGEST_HEARTBEAT_MS = 60_000;
const LONGEST_SILENCE_MS = 300_000;
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
        // Within bounds: who says it is not proven, and a link must not be taken for alive for ever.
        this.#heartbeatMs = Math.min(Math.max(1000, frame.heartbeatMs), LONGEST_HEARTBEAT_MS);
        this.#silenceMs = Math.min(Math.max(2 * this.#heartbeatMs, frame.silenceMs), LONGEST_SILENCE_MS);
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
        frame: {
          t: "hello",
          hostId,
          epoch,
          signature,
          version,
          bootId,
          capabilities,
          applied: this.#applied,
          accepted: this.#accepted,
        },
      },
    ];
  }

  #state(frame: StateFrame, now: Now): SessionAction[] {
    const refused = this.#judge(judgeState(frame, this.#setup, this.#accepted), now);
    if (refused) return refused;
    const { rev, sha256, items } = frame;
    const joined = this.#phase === "state";
    // The control plane sends a state again when it missed the ack: what is being applied goes on.
    const known = this.#accepted?.rev === rev && this.#accepted.sha256 === sha256;
    this.#phase = "linked";
    this.#accepted = { rev, sha256 };
    if (joined) {
      this.#attempt = 0;
      this.#pingAt = now.mono + this.#heartbeatMs;
    }
    return [
      ...(joined ? [{ type: "linked" } as const] : []),
      items && !known ? { type: "accept", state: { rev, sha256, items } } : { type: "recheck" },
    ];
  }

  #task(frame: TaskFrame, now: Now): SessionAction[] {
    return this.#judge(judgeTask(frame, this.#setup, this.#seen, now.wall), now) ?? [{ type: "task", task: frame }];
  }

  /** What follows from a refusal; undefined when there is none. */
  #judge(verdict: Verdict, now: Now): SessionAction[] | undefined {
    if (verdict.kind === "ok") return undefined;
    if (verdict.kind === "wrong") return this.#refuse(now, 4001, verdict.why);
    const detail = verdict.why.slice(0, 500);
    const event: SessionAction = { type: "event", event: { at: now.wall, kind: "frame_refused", detail } };
    // Whoever sends forged frames is not the control plane, or not only: try another way to it.
    if (verdict.kind === "forged") return [event, ...this.#refuse(now, 4003, verdict.why)];
    // Signed, so the control plane did say it once: the link stays, for what follows or for an operator to look at.
    this.counters.refused += 1;
    return [event];
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
