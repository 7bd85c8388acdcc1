import { type LinkWay, readItems, type StateItem } from "../../shared/protocol/desired-state.ts";
import {
  type AgentFrame,
  FIRST_EVENT_KINDS,
  HEARTBEAT_MS,
  helloSignedBytes,
  parseServerFrame,
  type ServerFrame,
  SILENCE_MS,
  type StateFrame,
  type TaskFrame,
} from "../../shared/protocol/frames.ts";
import { UNDERSTANDS } from "../../shared/protocol/versions.ts";
import { judgeState, judgeTask, type Verdict } from "./admission.ts";
import { reconnectDelay } from "./backoff.ts";
import { type Endpoint, Endpoints } from "./endpoints.ts";
import { SeenTasks } from "./seen-tasks.ts";
import type { Now, Revision, SessionAction, SessionInput, SessionSetup } from "./session-types.ts";

type Phase = "idle" | "connecting" | "challenge" | "welcome" | "state" | "linked" | "waiting" | "stopped";

const LONGEST_HEARTBEAT_MS = 60_000;
const LONGEST_SILENCE_MS = 300_000;
/** From connecting to the first state: a server that accepts and says nothing is as good as dead. */
const JOIN_MS = 20_000;
/** How often a host linked through another one tries its direct way, and how soon again when a task runs just then. */
const PROBE_MS = 600_000;
const BUSY_MS = 30_000;
/** A `stale_epoch` further ahead than this is not believed: epochs are times, and a lie must not use up their range. */
const MOST_EPOCH_AHEAD_MS = 100 * 366 * 86_400_000;

/** The ways through other hosts that a state names. */
export function waysOf(items: readonly StateItem[]): readonly LinkWay[] {
  return items.find((item) => item.type === "linkWays")?.via ?? [];
}

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
  readonly #endpoints: Endpoints;
  #used: Endpoint = { url: "" };
  /** When the direct way is tried again, while linked through another host. */
  #probeAt = Number.POSITIVE_INFINITY;
  #retryAt = 0;
  #joinBy = 0;
  #heardAt = 0;
  #pingAt = 0;
  #pingId = 0;
  #heartbeatMs = HEARTBEAT_MS;
  #silenceMs = SILENCE_MS;
  readonly #seen = new SeenTasks();

  #anyEvents = false;

  constructor(setup: SessionSetup) {
    this.#setup = setup;
    this.#endpoints = new Endpoints(setup.endpoints, setup.ways ?? []);
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
    return this.way.url;
  }

  /** The host this link goes through, or would; undefined for a direct one. */
  get via(): LinkWay | undefined {
    return this.way.via;
  }

  get way(): Endpoint {
    // The way in use stays what it is, whatever a state names meanwhile.
    return this.#phase === "waiting" || this.#phase === "idle" ? this.#endpoints.current : this.#used;
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
        return Math.min(this.#pingAt, this.#heardAt + this.#silenceMs, this.#probeAt);
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
        return [{ type: "note", message: input.why }, ...this.#wait(now, { askedMs: input.retryAfterMs })];
      case "probed":
        return this.#probed(input.ok, now);
      case "tick":
        return this.#tick(now);
      case "binary":
        return this.#refuse(now, 1003, "frames are text");
      case "text":
        return this.#text(input.text, now);
      case "report":
        return this.#report(input);
      case "send":
        return this.#phase === "linked"
          ? [{ type: "send", frame: this.#anyEvents ? input.frame : plain(input.frame) }]
          : [];
    }
  }

  #connect(now: Now): SessionAction[] {
    this.#phase = "connecting";
    this.#joinBy = now.mono + JOIN_MS;
    this.counters.connects += 1;
    this.#used = this.#endpoints.current;
    const { url, via } = this.#used;
    return [{ type: "connect", endpoint: url, ...(via && { via }) }];
  }

  /**
   * The link is gone, or could not be had: the next attempt comes after a while. It goes to the next endpoint, but to the direct
   * one after a link that worked and was ended by somebody (not by silence, which is how a blocked way ends).
   */
  #wait(now: Now, { askedMs, blocked }: { askedMs?: number | undefined; blocked?: boolean } = {}): SessionAction[] {
    this.#retryAt = now.mono + reconnectDelay(this.#attempt, this.#setup.random(), askedMs);
    this.#attempt += 1;
    if (this.#phase === "linked" && !blocked) this.#endpoints.restart();
    else this.#endpoints.next();
    this.#probeAt = Number.POSITIVE_INFINITY;
    this.#phase = "waiting";
    return [{ type: "unlinked" }];
  }

  #refuse(now: Now, code: number, reason: string): SessionAction[] {
    if (this.#phase === "idle" || this.#phase === "waiting") return [];
    this.counters.refused += 1;
    return [{ type: "close", code, reason: reason.slice(0, 120) }, ...this.#wait(now, { blocked: true })];
  }

  #tick(now: Now): SessionAction[] {
    switch (this.#phase) {
      case "waiting":
        return now.mono >= this.#retryAt ? this.#connect(now) : [];
      case "linked": {
        if (now.mono >= this.#heardAt + this.#silenceMs)
          return [{ type: "close", code: 4000, reason: "silence" }, ...this.#wait(now, { blocked: true })];
        if (now.mono >= this.#probeAt) return this.#probe(now);
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

  /** Linked through another host: is the direct way open again? */
  #probe(now: Now): SessionAction[] {
    const busy = this.#setup.busy?.() ?? false;
    this.#probeAt = now.mono + (busy ? BUSY_MS : PROBE_MS);
    return busy ? [] : [{ type: "probe", endpoint: this.#setup.endpoints[0] ?? "" }];
  }

  /** It is: the link moves there at once. What is on its way is asked for anew after the hello. */
  #probed(ok: boolean, now: Now): SessionAction[] {
    if (!ok || this.#phase !== "linked" || this.via === undefined) return [];
    if (this.#setup.busy?.()) return [];
    const leave: SessionAction[] = [
      { type: "note", message: "the direct way is open again" },
      { type: "close", code: 1000, reason: "the direct way is open again" },
      ...this.#wait(now),
    ];
    return [...leave, ...this.#connect(now)];
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
        this.#anyEvents = frame.anyEvents ?? false;
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
          ...this.#wait(now, { askedMs: frame.reconnectAfterMs }),
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
          ...(this.via && { via: this.via.hostId }),
          understands: UNDERSTANDS,
        },
      },
    ];
  }

  #state(frame: StateFrame, now: Now): SessionAction[] {
    const refused = this.#judge(judgeState(frame, this.#setup, this.#accepted), now);
    if (refused) return refused;
    const { rev, sha256, items } = frame;
    const read = items && readItems(items);
    if (read && "bad" in read) return this.#refuse(now, 4001, `state: ${read.bad}`);
    const joined = this.#phase === "state";
    // The control plane sends a state again when it missed the ack: what is being applied goes on.
    const known = this.#accepted?.rev === rev && this.#accepted.sha256 === sha256;
    this.#phase = "linked";
    this.#accepted = { rev, sha256 };
    if (read) this.#endpoints.setWays(waysOf(read.items));
    if (joined) {
      this.#attempt = 0;
      if (this.via !== undefined) this.#probeAt = now.mono + PROBE_MS;
      this.#pingAt = now.mono + this.#heartbeatMs;
    }
    return [
      ...(joined ? [{ type: "linked" } as const] : []),
      items && read && !known ? { type: "accept", state: { rev, sha256, items }, read } : { type: "recheck" },
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
    // A report on a state that has been replaced meanwhile says nothing the control plane waits for.
    const current = this.#accepted?.rev === rev && this.#accepted.sha256 === sha256;
    if (this.#phase === "linked" && current) actions.push({ type: "send", frame: { t: "ack", rev, sha256, results } });
    // After the ack, which need not wait for a disk: a crash in between costs the next link a state it has.
    if (allOk && (this.#applied?.rev !== rev || this.#applied.sha256 !== sha256)) {
      this.#applied = { rev, sha256 };
      actions.push({ type: "saveApplied", applied: this.#applied });
    }
    return actions;
  }
}

/** A frame as control planes took it that know the first kinds of events alone: others go by the name of one, and say which they are. */
function plain(frame: AgentFrame): AgentFrame {
  if (frame.t !== "observe" || frame.events.every(({ kind }) => FIRST_EVENT_KINDS.includes(kind))) return frame;
  const events = frame.events.map((event) =>
    FIRST_EVENT_KINDS.includes(event.kind)
      ? event
      : { ...event, kind: "apply_failed", detail: `${event.kind}: ${event.detail}`.slice(0, 500) },
  );
  return { ...frame, events };
}
