import { sql } from "drizzle-orm";
import type { Id } from "../../shared/ids.ts";
import { inList } from "../db/indexed.ts";
import { prepared } from "../db/prepared.ts";
import * as t from "../db/schema/index.ts";
import type { Bus, BusMessage, Fleet, Ports } from "../ports/index.ts";
import type { AppliedWaiters, Delay } from "./applied-waiters.ts";
import type { LinkClock, LinkHandle, Socket } from "./link.ts";
import { Links } from "./links.ts";
import { TaskAsks } from "./task-asks.ts";
import { TaskCarrier } from "./task-carrier.ts";

const SWEPT_AT_ONCE = 500;
/** Others drop a message with more than 10,000 hosts as none of ours. */
const TOLD_AT_ONCE = 5_000;
const REVISIONS = prepared((db) =>
  db
    .select({ id: t.hosts.id, rev: t.hosts.desiredRev })
    .from(t.hosts)
    .where(inList(t.hosts.id, sql.placeholder("ids")))
    .prepare(),
);

/**
 * Reaches hosts for the rules (the `Fleet` port), by the links of this process and by the bus. The composition root calls
 * `tick` every second, `sweep` every few, `flushSeen` and `flushUsage` every ten.
 */
export class LinkHub implements Fleet {
  #ports: Ports | undefined;
  readonly #links: Links;
  readonly #waiters: AppliedWaiters;
  readonly #bus: Bus;
  readonly #delay: Delay;
  readonly #asks: TaskAsks;
  readonly #carrier: TaskCarrier;

  constructor(clock: LinkClock, waiters: AppliedWaiters, bus: Bus, delay: Delay) {
    this.#waiters = waiters;
    this.#bus = bus;
    this.#delay = delay;
    this.#asks = new TaskAsks(delay);
    this.#links = new Links(clock, delay, {
      joined: (hostId, epoch) => bus.publish({ t: "joined", hostId, epoch }),
      applied(hostId, rev, failed) {
        waiters.applied(hostId, rev, failed);
        bus.publish({ t: "applied", hostId, rev, failed });
      },
      taskEvent: (link, id, seq, data) => this.#carrier.event(link, id, seq, data),
      taskEnd: (link, id, outcome) => this.#carrier.end(link, id, outcome),
      left: (link) => this.#carrier.left(link),
    });
    this.#carrier = new TaskCarrier(this.#links, {
      isHere: (id) => this.#asks.has(id),
      event: (id, seq, data) => {
        if (this.#asks.has(id)) this.#asks.event(id, seq, data);
        else bus.publish({ t: "task.event", id, seq, data });
      },
      ended: (id) => {
        if (this.#asks.has(id)) this.#asks.ended(id);
        else bus.publish({ t: "task.end", id });
      },
    });
    bus.subscribe((message) => this.#hear(message));
  }

  /** The hub is one of the ports and uses the others: it gets them once they are whole, before the first socket. */
  start(ports: Ports): void {
    this.#ports = ports;
    this.#links.start(ports);
    this.#carrier.start(ports);
  }

  get #started(): Ports {
    if (this.#ports === undefined) throw new Error("the hub was not started");
    return this.#ports;
  }

  /** A socket was accepted. */
  accept(socket: Socket): LinkHandle {
    return this.#links.accept(socket);
  }

  tick(): void {
    this.#links.tick();
    this.#carrier.flush().catch((error) => this.#started.log.error("could not write tasks", { error }));
  }

  /** Finds hosts whose revision moved, and tasks that were written, without a wake-up reaching this process. */
  async sweep(): Promise<void> {
    await this.#carrier.look();
    const ids = this.#links.hostIds;
    for (let i = 0; i < ids.length; i += SWEPT_AT_ONCE) {
      const rows = await REVISIONS(this.#started.db.read).all({ ids: JSON.stringify(ids.slice(i, i + SWEPT_AT_ONCE)) });
      this.#links.changed(
        rows.filter((row) => this.#links.of(row.id)?.session.sentRev !== row.rev).map((row) => row.id),
      );
      // Rows of a file come without any waiting: so many at a time, then the sockets.
      await new Promise<void>((next) => this.#delay(0, next));
    }
  }

  flushSeen(): Promise<void> {
    return this.#links.flushSeen();
  }

  flushUsage(): Promise<void> {
    return this.#links.flushUsage();
  }

  /** Cancels what this process asked of hosts, and says goodbye to those linked here. */
  async drain(): Promise<void> {
    await this.#asks.cancelAll(this.#started);
    await this.#links.drain();
  }

  /** How many hosts are joined here. */
  get size(): number {
    return this.#links.size;
  }

  wake(hostIds: readonly Id<"hst">[]): void {
    this.#links.changed(hostIds);
    const elsewhere = hostIds.filter((id) => this.#links.of(id) === undefined);
    this.#tell("wake", elsewhere);
  }

  #tell(t: "wake" | "tasks", hostIds: readonly Id<"hst">[]): void {
    for (let i = 0; i < hostIds.length; i += TOLD_AT_ONCE)
      this.#bus.publish({ t, hostIds: hostIds.slice(i, i + TOLD_AT_ONCE) });
  }

  #hear(message: BusMessage): void {
    if (message.t === "wake") this.#links.changed(message.hostIds);
    else if (message.t === "applied") this.#waiters.applied(message.hostId, message.rev, message.failed);
    else if (message.t === "joined") this.#links.joinedElsewhere(message.hostId, message.epoch);
    else if (message.t === "tasks") this.#carry(message.hostIds);
    else if (message.t === "task.event") this.#asks.event(message.id, message.seq, message.data);
    else this.#asks.ended(message.id);
  }

  waitApplied: Fleet["waitApplied"] = (targets, timeoutMs) => this.#waiters.wait(targets, timeoutMs);

  /** True when a session of that host is joined in this process. */
  isLinked(hostId: Id<"hst">): boolean {
    return this.#links.of(hostId) !== undefined;
  }

  wakeTasks(hostIds: readonly Id<"hst">[]): void {
    this.#carry(hostIds);
    const elsewhere = hostIds.filter((id) => this.#links.of(id) === undefined);
    this.#tell("tasks", elsewhere);
  }

  #carry(hostIds: readonly Id<"hst">[]): void {
    // What fails here the sweep finds again.
    this.#carrier.look(hostIds).catch((error) => this.#started.log.error("could not look for tasks", { error }));
  }

  runTask(...args: Parameters<Fleet["runTask"]>): ReturnType<Fleet["runTask"]> {
    return this.#asks.run(this.#started, ...args);
  }
}
