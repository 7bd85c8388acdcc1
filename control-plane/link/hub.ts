import { inArray } from "drizzle-orm";
import { toHex } from "../../shared/canonical.ts";
import { AppError } from "../../shared/errors.ts";
import type { Id } from "../../shared/ids.ts";
import type { HelloFrame, ServerFrame } from "../../shared/protocol/frames.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";
import * as t from "../db/schema/index.ts";
import type { Bus, BusMessage, Fleet, Ports } from "../ports/index.ts";
import { type Context, makeId, systemContext } from "../services/context.ts";
import { recordHostEvent, recordSuperseded } from "../services/hosts/events.ts";
import { acknowledge, leaveHost, observe, touchSeen } from "../services/hosts/report.ts";
import { type AppliedWaiters, failedItems } from "./applied-waiters.ts";
import { Gate } from "./gate.ts";
import { identify, loadState } from "./identify.ts";
import { type Action, type CloseReason, ServerSession } from "./session.ts";
import { TaskRuns } from "./task-runs.ts";

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

type Live = {
  readonly session: ServerSession;
  readonly socket: Socket;
  hello?: HelloFrame;
  role: string;
  clockOffsetMs?: number;
  seen: boolean;
  /** Effects of one session run one after another, in the order its frames came. */
  tail: Promise<void>;
};

/** Hellos checked at once: after a restart ten thousand hosts come back, and each costs a signature and a transaction. */
const HELLOS_AT_ONCE = 32;
/** How far a host's clock may be off before operators are told. Ends on the host are enforced by its own clock. */
const CLOCK_SKEW_MS = 5_000;
/** Drained hosts come back over so long a time each, so that the next process is not met by all at once. */
const DRAIN_SPREAD_MS_PER_HOST = 2;

export type HubClock = { monotonic(): number; wall(): number };

/**
 * The links this process holds. Runs the sessions' actions against the services, and reaches hosts for the rules (the
 * `Fleet` port). The composition root calls `tick` every second, `sweep` every few, `flushSeen` every ten.
 */
export class LinkHub implements Fleet {
  #context: Context | undefined;
  readonly #clock: HubClock;
  readonly #all = new Set<Live>();
  readonly #joined = new Map<Id<"hst">, Live>();
  readonly #waiters: AppliedWaiters;
  readonly #bus: Bus;
  readonly #tasks = new TaskRuns();
  #gate = new Gate(HELLOS_AT_ONCE);
  #draining = false;

  constructor(clock: HubClock, waiters: AppliedWaiters, bus: Bus) {
    this.#clock = clock;
    this.#waiters = waiters;
    this.#bus = bus;
    bus.subscribe((message) => this.#hear(message));
  }

  /** The hub is one of the ports and uses the others: it gets them once they are whole, before the first socket. */
  start(ports: Ports): void {
    this.#context = systemContext(ports, "link");
  }

  get #ctx(): Context {
    if (this.#context === undefined) throw new Error("the hub was not started");
    return this.#context;
  }

  /** A socket was accepted. */
  accept(socket: Socket): LinkHandle {
    const nonce = toHex(this.#ctx.ports.random.bytes(24));
    const live: Live = {
      session: new ServerSession(nonce, this.#clock.monotonic()),
      socket,
      role: "unknown",
      seen: false,
      tail: Promise.resolve(),
    };
    this.#all.add(live);
    if (this.#draining) this.#run(live, live.session.close("draining"));
    else this.#run(live, live.session.start(this.#clock.wall()));
    return {
      message: (text) => {
        live.seen = true;
        this.#run(live, live.session.receive(text, this.#clock.monotonic(), this.#clock.wall()));
      },
      closed: () => {
        live.session.close("socket_closed");
        this.#leave(live, "socket_closed");
      },
    };
  }

  tick(): void {
    for (const live of this.#all) this.#run(live, live.session.tick(this.#clock.monotonic(), this.#clock.wall()));
  }

  /** Finds hosts whose revision moved without a wake-up reaching this process. */
  async sweep(): Promise<void> {
    const ids = [...this.#joined.keys()];
    for (let i = 0; i < ids.length; i += 500) {
      const rows = await this.#ctx.ports.db.read
        .select({ id: t.hosts.id, rev: t.hosts.desiredRev })
        .from(t.hosts)
        .where(inArray(t.hosts.id, ids.slice(i, i + 500)));
      this.#wakeHere(rows.filter((row) => this.#joined.get(row.id)?.session.sentRev !== row.rev).map((row) => row.id));
    }
  }

  /** Writes the signs of life since the last call, in one batch. */
  async flushSeen(): Promise<void> {
    const seen = [...this.#joined].filter(([, live]) => live.seen);
    for (const [, live] of seen) live.seen = false;
    await touchSeen(
      this.#ctx,
      seen.map(([hostId]) => hostId),
    );
  }

  /** Says goodbye to every host, each to come back at another moment. */
  async drain(): Promise<void> {
    this.#draining = true;
    const spread = Math.max(2_000, this.#all.size * DRAIN_SPREAD_MS_PER_HOST);
    for (const live of [...this.#all]) {
      const [high = 0, low = 0] = this.#ctx.ports.random.bytes(2);
      this.#run(live, live.session.close("draining", 200 + Math.round(((high * 256 + low) / 65_536) * spread)));
    }
    await Promise.allSettled([...this.#all].map((live) => live.tail));
  }

  get size(): number {
    return this.#joined.size;
  }

  // --- Fleet

  wake(hostIds: readonly Id<"hst">[]): void {
    this.#wakeHere(hostIds);
    const elsewhere = hostIds.filter((id) => !this.#joined.has(id));
    if (elsewhere.length > 0) this.#bus.publish({ t: "wake", hostIds: elsewhere });
  }

  #hear(message: BusMessage): void {
    if (message.t === "wake") this.#wakeHere(message.hostIds);
    else if (message.t === "applied") this.#waiters.applied(message.hostId, message.rev, message.failed);
    else {
      const live = this.#joined.get(message.hostId);
      if (live?.hello !== undefined && live.hello.epoch < message.epoch) this.#supersede(live, message.hostId);
    }
  }

  #wakeHere(hostIds: readonly Id<"hst">[]): void {
    for (const id of hostIds) {
      const live = this.#joined.get(id);
      if (live !== undefined) this.#run(live, live.session.changed());
    }
  }

  waitApplied: Fleet["waitApplied"] = (targets, timeoutMs) => this.#waiters.wait(targets, timeoutMs);

  isLinked(hostId: Id<"hst">): boolean {
    return this.#joined.has(hostId);
  }

  clockOffsetMs(hostId: Id<"hst">): number | undefined {
    return this.#joined.get(hostId)?.clockOffsetMs;
  }

  async *runTask(...[hostId, task, options]: Parameters<Fleet["runTask"]>): ReturnType<Fleet["runTask"]> {
    const live = this.#joined.get(hostId);
    if (live === undefined) throw new AppError("host_not_online");
    const { ports } = this.#ctx;
    const id = makeId(ports, "tsk");
    // The host compares with its own clock: one that is a day off must still take tasks.
    const deadlineAt = options.deadlineAt + (live.clockOffsetMs ?? 0);
    const value = await ports.signer.sign(taskSignedBytes({ hostId, id, ...task, deadlineAt }));
    // The link may have gone while the task was signed: nobody would ever end it.
    if (!this.#all.has(live)) throw new AppError("host_not_online");
    const run = this.#tasks.start(id, live);
    const cancel = () => this.#send(live, { t: "task.cancel", id });
    options.signal?.addEventListener("abort", cancel, { once: true });
    try {
      this.#send(live, { t: "task", id, ...task, deadlineAt, signature: { keyId: ports.signer.keyId, value } });
      if (options.signal?.aborted) cancel();
      for await (const event of run.events) yield event;
    } finally {
      options.signal?.removeEventListener("abort", cancel);
      if (!run.ended) cancel();
      this.#tasks.forget(id);
    }
  }

  // --- effects

  #run(live: Live, actions: Action[]): void {
    for (const action of actions) {
      // What needs no waiting is done at once, so that a close or a ping never queues behind the database.
      if (action.do === "send") this.#send(live, action.frame);
      else if (action.do === "close") this.#close(live, action.reason);
      else if (action.do === "count") this.#ctx.ports.metrics.count("link_frames_refused", { reason: action.what });
      else if (action.do === "clockOffset") this.#noteClock(live, action.ms);
      else if (action.do === "taskEvent") this.#tasks.event(action.id, live, action.seq, action.data);
      else if (action.do === "taskEnd") this.#tasks.end(action.id, live, action.outcome);
      else live.tail = live.tail.then(() => this.#perform(live, action)).catch((error) => this.#failed(live, error));
    }
  }

  async #perform(live: Live, action: Extract<Action, { do: "identify" | "load" | "ack" | "observe" }>): Promise<void> {
    const ctx = this.#ctx;
    if (action.do === "identify") {
      const result = await this.#gate.run(async () =>
        // A host that gave up while it waited its turn is not let in: it would be online without a link.
        this.#all.has(live) ? identify(ctx, action.hello, action.nonce) : undefined,
      );
      if (result === undefined) return;
      // The socket may have gone while the database was asked.
      if (!this.#all.has(live)) return;
      if (result.ok) this.#join(live, action.hello, result.role ?? "unknown");
      this.#run(live, live.session.identified(result));
      if (result.ok) this.#run(live, live.session.ping(this.#clock.monotonic(), this.#clock.wall()));
      return;
    }
    const { hello } = live;
    if (hello === undefined) return;
    if (action.do === "load") {
      const state = await loadState(ctx, hello.hostId);
      this.#run(live, live.session.loaded(state, this.#clock.monotonic()));
    } else if (action.do === "ack") {
      const { rev, sha256, results } = action.ack;
      if (!(await acknowledge(ctx, hello.hostId, hello.epoch, { rev, sha256, results })))
        return this.#run(live, live.session.close("superseded"));
      const failed = failedItems(results);
      this.#waiters.applied(hello.hostId, rev, failed);
      this.#bus.publish({ t: "applied", hostId: hello.hostId, rev, failed });
      if (action.pushedAt !== undefined)
        ctx.ports.metrics.time("push_to_ack_ms", this.#clock.monotonic() - action.pushedAt, { role: live.role });
    } else {
      const drift = action.events.filter((event) => event.kind === "drift_repaired").length;
      if (drift > 0) ctx.ports.metrics.count("drift_repaired", { role: live.role }, drift);
      for (const event of action.events) ctx.ports.log.warn("host event", { hostId: hello.hostId, ...event });
      if (!(await observe(ctx, hello.hostId, hello.epoch, action.values, action.events)))
        this.#run(live, live.session.close("superseded"));
    }
  }

  #join(live: Live, hello: HelloFrame, role: string): void {
    live.hello = hello;
    live.role = role;
    const older = this.#joined.get(hello.hostId);
    this.#joined.set(hello.hostId, live);
    if (older !== undefined) this.#supersede(older, hello.hostId);
    this.#bus.publish({ t: "joined", hostId: hello.hostId, epoch: hello.epoch });
    this.#ctx.ports.metrics.count("links_opened", { role });
    this.#ctx.ports.log.info("host joined", { hostId: hello.hostId, role, epoch: hello.epoch, version: hello.version });
  }

  #supersede(older: Live, hostId: Id<"hst">): void {
    this.#run(older, older.session.close("superseded"));
    this.#record(hostId, () => recordSuperseded(this.#ctx, hostId));
  }

  #noteClock(live: Live, offsetMs: number): void {
    const before = live.clockOffsetMs;
    live.clockOffsetMs = offsetMs;
    const { hello } = live;
    if (hello === undefined || before !== undefined || Math.abs(offsetMs) <= CLOCK_SKEW_MS) return;
    const detail = `the host's clock is ${Math.abs(Math.round(offsetMs / 1000))} s ${offsetMs > 0 ? "ahead" : "behind"}`;
    this.#record(hello.hostId, () => recordHostEvent(this.#ctx, hello.hostId, "clock_skew", detail));
  }

  /** Writes something operators should see; failing to is logged and costs the link nothing. */
  #record(hostId: Id<"hst">, write: () => Promise<void>): void {
    write().catch((error) => this.#ctx.ports.log.error("could not record a host event", { hostId, error }));
  }

  #send(live: Live, frame: ServerFrame): void {
    live.socket.send(JSON.stringify(frame));
  }

  #close(live: Live, reason: CloseReason): void {
    live.socket.close(reason === "draining" ? 1001 : 1008, reason);
    this.#leave(live, reason);
  }

  #leave(live: Live, reason: CloseReason): void {
    if (!this.#all.delete(live)) return;
    this.#ctx.ports.metrics.count("links_closed", { reason });
    this.#tasks.lost(live);
    const { hello } = live;
    if (hello === undefined) return;
    if (this.#joined.get(hello.hostId) === live) this.#joined.delete(hello.hostId);
    this.#ctx.ports.log.info("host left", { hostId: hello.hostId, reason });
    // A host told to come back in a moment is not shown as lost.
    if (reason === "draining") return;
    live.tail = live.tail
      .then(() => leaveHost(this.#ctx, hello.hostId, hello.epoch))
      .catch((error) => this.#ctx.ports.log.error("could not mark a host offline", { hostId: hello.hostId, error }));
  }

  #failed(live: Live, error: unknown): void {
    this.#ctx.ports.log.error("link failed", { hostId: live.hello?.hostId, error });
    // The host comes back and is told its state anew: nothing that failed here is lost.
    this.#run(live, live.session.close("draining"));
  }
}
