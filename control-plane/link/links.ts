import { toHex } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import type { HelloFrame, ServerFrame } from "../../shared/protocol/frames.ts";
import type { Ports } from "../ports/index.ts";
import { type Context, systemContext } from "../services/context.ts";
import { recordHostEvent, recordNeedsUpgrade, recordSuperseded } from "../services/hosts/events.ts";
import { type Ack, acknowledge, leaveHost, observe, touchSeen } from "../services/hosts/report.ts";
import { UsageQueue } from "../services/usage/queue.ts";
import { type Delay, failedItems } from "./applied-waiters.ts";
import { Batch, type BatchSize } from "./batch.ts";
import { type Answer, type Hello, identify, type Loaded, loadStates } from "./identify.ts";
import type { Link, LinkClock, LinkHandle, LinkListener, Socket } from "./link.ts";
import { type Action, type CloseReason, ServerSession } from "./session.ts";

/**
 * States or acks dealt with at once: others want their turn too. What comes one at a time waits for nothing, since a customer
 * waits for it. A link has one of them waiting at a time; only when the database is away while hosts come and go do more wait
 * than a process has links.
 */
const AT_ONCE: BatchSize = {
  most: 64,
  mostWaiting: 65_536,
  spacingMs: (members) => Math.min(20, 2 * (members - 1)),
};
/** Hellos too: after a restart ten thousand hosts come back over half a minute, and a batch of a few costs what one of many does. */
const HELLOS_AT_ONCE: BatchSize = { ...AT_ONCE, spacingMs: () => 50 };
/** How far a host's clock may be off before operators are told. Ends on the host are enforced by its own clock. */
const CLOCK_SKEW_MS = 5_000;
/** Frames of one host that may wait for the database; one that sends faster than they are written is sent away. */
const MOST_WAITING = 256;
/** Drained hosts come back over so long a time each, so that the next process is not met by all at once. */
const DRAIN_SPREAD_MS_PER_HOST = 2;

/** The links this process holds: runs the actions of their sessions against sockets and services. */
export class Links {
  #context: Context | undefined;
  readonly #clock: LinkClock;
  readonly #listener: LinkListener;
  readonly #all = new Set<Link>();
  readonly #joined = new Map<Id<"hst">, Link>();
  /** Hosts whose hellos are being checked: how many, and the newest epoch that was heard to have joined elsewhere meanwhile. */
  readonly #joining = new Map<Id<"hst">, { hellos: number; elsewhere: number }>();
  readonly #hellos: Batch<Hello, Answer>;
  readonly #loads: Batch<Id<"hst">, Loaded>;
  readonly #acks: Batch<Ack, boolean>;
  readonly #usage = new UsageQueue();
  #draining = false;

  constructor(clock: LinkClock, delay: Delay, listener: LinkListener) {
    this.#clock = clock;
    this.#listener = listener;
    const batchClock = { monotonic: clock.monotonic, delay };
    const turn = () => new Promise<void>((resolve) => void delay(0, resolve));
    this.#hellos = new Batch((hellos) => identify(this.#ctx, hellos), batchClock, HELLOS_AT_ONCE);
    this.#loads = new Batch((hostIds) => loadStates(this.#ctx, hostIds, turn), batchClock, AT_ONCE);
    this.#acks = new Batch((acks) => acknowledge(this.#ctx, acks), batchClock, AT_ONCE);
  }

  /** The links need the ports once they are whole, before the first socket. */
  start(ports: Ports): void {
    this.#context = systemContext(ports, "link");
  }

  get #ctx(): Context {
    if (this.#context === undefined) throw new Error("the links were not started");
    return this.#context;
  }

  /** The hosts that are joined here. */
  get hostIds(): Id<"hst">[] {
    return [...this.#joined.keys()];
  }

  get size(): number {
    return this.#joined.size;
  }

  /** A host's link, when it is joined here. */
  of(hostId: Id<"hst">): Link | undefined {
    return this.#joined.get(hostId);
  }

  /** False once a link's end was noticed. */
  has(link: Link): boolean {
    return this.#all.has(link);
  }

  /** A socket was accepted. */
  accept(socket: Socket): LinkHandle {
    const nonce = toHex(this.#ctx.ports.random.bytes(24));
    const link: Link = {
      session: new ServerSession(nonce, this.#clock.monotonic()),
      socket,
      role: "unknown",
      seen: false,
      tail: Promise.resolve(),
      waiting: 0,
      retired: false,
    };
    this.#all.add(link);
    if (this.#draining) this.#run(link, link.session.close("draining"));
    else this.#run(link, link.session.start(this.#clock.wall()));
    return {
      message: (text) => {
        link.seen = true;
        this.#run(link, link.session.receive(text, this.#clock.monotonic(), this.#clock.wall()));
      },
      closed: () => {
        link.session.close("socket_closed");
        this.#leave(link, "socket_closed");
      },
    };
  }

  tick(): void {
    for (const link of this.#all) this.#run(link, link.session.tick(this.#clock.monotonic(), this.#clock.wall()));
  }

  /** These hosts' desired state changed: those joined here are sent it. */
  changed(hostIds: readonly Id<"hst">[]): void {
    for (const id of hostIds) {
      const link = this.#joined.get(id);
      if (link !== undefined) this.#run(link, link.session.changed());
    }
  }

  /** A host joined elsewhere with this epoch: an older session here is over. */
  joinedElsewhere(hostId: Id<"hst">, epoch: number): void {
    const joining = this.#joining.get(hostId);
    if (joining !== undefined) joining.elsewhere = Math.max(joining.elsewhere, epoch);
    const link = this.#joined.get(hostId);
    if (link?.hello !== undefined && link.hello.epoch < epoch) this.#supersede(link, hostId);
  }

  /** Writes what lines used since the last call, as their exits told it, in one batch. */
  flushUsage(): Promise<void> {
    return this.#usage.flush(this.#ctx);
  }

  /** Writes the signs of life since the last call, in one batch. */
  async flushSeen(): Promise<void> {
    const seen = [...this.#joined].filter(([, link]) => link.seen);
    for (const [, link] of seen) link.seen = false;
    await touchSeen(
      this.#ctx,
      seen.flatMap(([id, { hello }]) => (hello === undefined ? [] : [{ id, epoch: hello.epoch }])),
    );
  }

  /** Says goodbye to every host, each to come back at another moment. */
  async drain(): Promise<void> {
    this.#draining = true;
    const all = [...this.#all];
    const spread = Math.max(2_000, all.length * DRAIN_SPREAD_MS_PER_HOST);
    for (const link of all) {
      const [high = 0, low = 0] = this.#ctx.ports.random.bytes(2);
      this.#run(link, link.session.close("draining", 200 + Math.round(((high * 256 + low) / 65_536) * spread)));
    }
    // A link that was closed is in no list any more: what its frames asked for is finished all the same.
    await Promise.allSettled(all.map((link) => link.tail));
  }

  // --- effects

  #run(link: Link, actions: Action[]): void {
    for (const action of actions) {
      // What needs no waiting is done at once, so that a close or a ping never queues behind the database.
      if (action.do === "send") this.send(link, action.frame);
      else if (action.do === "close") this.#close(link, action.reason);
      else if (action.do === "count") this.#ctx.ports.metrics.count("link_frames_refused", { reason: action.what });
      else if (action.do === "report") this.#report(link, action.kind, action.detail);
      else if (action.do === "clockOffset") this.#noteClock(link, action.ms);
      else if (action.do === "taskEvent") this.#listener.taskEvent(link, action.id, action.seq, action.data);
      else if (action.do === "taskEnd") this.#listener.taskEnd(link, action.id, action.outcome);
      else if (link.waiting >= MOST_WAITING) this.#run(link, link.session.close("overrun"));
      else {
        link.waiting++;
        link.tail = link.tail
          .then(() => this.#perform(link, action))
          .catch((error) => this.#failed(link, error))
          .finally(() => link.waiting--);
      }
    }
  }

  #report({ hello }: Link, kind: "ack_refused" | "state_too_large", detail: string): void {
    if (hello !== undefined) this.#record(hello.hostId, () => recordHostEvent(this.#ctx, hello.hostId, kind, detail));
  }

  async #perform(link: Link, action: Extract<Action, { do: "identify" | "load" | "ack" | "observe" }>): Promise<void> {
    const ctx = this.#ctx;
    if (action.do === "identify") return this.#identify(link, action.hello, action.nonce);
    const { hello } = link;
    if (hello === undefined) return;
    if (action.do === "load") {
      const { retired, withheld, ...state } = await this.#loads.ask(hello.hostId);
      link.retired = retired;
      if (withheld.length > 0) this.#record(hello.hostId, () => recordNeedsUpgrade(ctx, hello.hostId, withheld));
      this.#run(link, link.session.loaded(state, this.#clock.monotonic()));
    } else if (action.do === "ack") {
      const { rev, sha256, results } = action.ack;
      if (!(await this.#acks.ask({ hostId: hello.hostId, epoch: hello.epoch, rev, sha256, results })))
        return this.#run(link, link.session.close("superseded"));
      const failed = failedItems(results);
      this.#listener.applied(hello.hostId, rev, failed);
      // It holds nothing any more, and has nothing to be told ever again.
      if (link.retired && failed.length === 0 && rev === link.session.sentRev)
        this.#run(link, link.session.close("removed"));
      if (action.pushedAt !== undefined)
        ctx.ports.metrics.time("push_to_ack_ms", this.#clock.monotonic() - action.pushedAt, { role: link.role });
    } else {
      const drift = action.events.filter((event) => event.kind === "drift_repaired").length;
      if (drift > 0) ctx.ports.metrics.count("drift_repaired", { role: link.role }, drift);
      for (const event of action.events) ctx.ports.log.warn("host event", { hostId: hello.hostId, ...event });
      if (!(await observe(ctx, hello.hostId, hello.epoch, action.values, action.events)))
        return this.#run(link, link.session.close("superseded"));
      const session = { epoch: hello.epoch, at: this.#clock.wall(), clockOffsetMs: link.clockOffsetMs ?? 0 };
      this.#usage.add(hello.hostId, session, action.values);
    }
  }

  async #identify(link: Link, hello: HelloFrame, nonce: string): Promise<void> {
    const joining = this.#joining.get(hello.hostId) ?? { hellos: 0, elsewhere: 0 };
    this.#joining.set(hello.hostId, joining);
    joining.hellos++;
    try {
      // A host that gave up while it waited its turn is not let in: it would be online without a link.
      const result = await this.#hellos.ask({ hello, nonce, alive: () => this.#all.has(link) });
      // The socket may have gone while the database was asked.
      if (!this.#all.has(link)) return result.ok ? await this.#joinedTooLate(hello) : undefined;
      if (result.ok && !this.#join(link, hello, result.role ?? "unknown")) return;
      this.#run(link, link.session.identified(result));
      if (result.ok) this.#run(link, link.session.ping(this.#clock.monotonic(), this.#clock.wall()));
    } finally {
      if (--joining.hellos === 0) this.#joining.delete(hello.hostId);
    }
  }

  /** Answers false when a newer session of the host is there: another process's may be heard of before our own answer comes. */
  #join(link: Link, hello: HelloFrame, role: string): boolean {
    const older = this.#joined.get(hello.hostId);
    const newest = Math.max(older?.hello?.epoch ?? 0, this.#joining.get(hello.hostId)?.elsewhere ?? 0);
    if (newest > hello.epoch) {
      this.#supersede(link, hello.hostId);
      return false;
    }
    link.hello = hello;
    link.role = role;
    this.#joined.set(hello.hostId, link);
    if (older !== undefined) this.#supersede(older, hello.hostId);
    this.#listener.joined(hello.hostId, hello.epoch);
    this.#ctx.ports.metrics.count("links_opened", { role });
    this.#ctx.ports.log.info("host joined", { hostId: hello.hostId, role, epoch: hello.epoch, version: hello.version });
    return true;
  }

  /** The database has a session that nobody holds: it ends, and so does an older one, whose acks would be refused from now on. */
  async #joinedTooLate({ hostId, epoch }: HelloFrame): Promise<void> {
    this.joinedElsewhere(hostId, epoch);
    this.#listener.joined(hostId, epoch);
    if (!this.#draining) await leaveHost(this.#ctx, hostId, epoch, "socket_closed");
  }

  #supersede(older: Link, hostId: Id<"hst">): void {
    this.#run(older, older.session.close("superseded"));
    this.#record(hostId, () => recordSuperseded(this.#ctx, hostId));
  }

  #noteClock(link: Link, offsetMs: number): void {
    const before = link.clockOffsetMs;
    link.clockOffsetMs = offsetMs;
    const { hello } = link;
    if (hello === undefined || before !== undefined || Math.abs(offsetMs) <= CLOCK_SKEW_MS) return;
    const detail = `the host's clock is ${Math.abs(Math.round(offsetMs / 1000))} s ${offsetMs > 0 ? "ahead" : "behind"}`;
    this.#record(hello.hostId, () => recordHostEvent(this.#ctx, hello.hostId, "clock_skew", detail));
  }

  /** Writes something operators should see; failing to is logged and costs the link nothing. */
  #record(hostId: Id<"hst">, write: () => Promise<void>): void {
    write().catch((error) => this.#ctx.ports.log.error("could not record a host event", { hostId, error }));
  }

  /** Sends a frame now. */
  send(link: Link, frame: ServerFrame): void {
    link.socket.send(JSON.stringify(frame));
  }

  #close(link: Link, reason: CloseReason): void {
    link.socket.close(reason === "draining" ? 1001 : 1008, reason);
    this.#leave(link, reason);
  }

  #leave(link: Link, reason: CloseReason): void {
    if (!this.#all.delete(link)) return;
    this.#ctx.ports.metrics.count("links_closed", { reason });
    this.#listener.left(link);
    const { hello } = link;
    if (hello === undefined) return;
    if (this.#joined.get(hello.hostId) === link) this.#joined.delete(hello.hostId);
    this.#ctx.ports.log.info("host left", { hostId: hello.hostId, reason });
    // A host told to come back in a moment is not shown as lost.
    if (reason === "draining") return;
    link.tail = link.tail
      .then(() => leaveHost(this.#ctx, hello.hostId, hello.epoch, reason))
      .catch((error) => this.#ctx.ports.log.error("could not mark a host offline", { hostId: hello.hostId, error }));
  }

  #failed(link: Link, error: unknown): void {
    this.#ctx.ports.log.error("link failed", { hostId: link.hello?.hostId, error });
    // The host comes back and is told its state anew: nothing that failed here is lost.
    this.#run(link, link.session.close("draining"));
  }
}
