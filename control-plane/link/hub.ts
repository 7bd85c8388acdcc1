import { inArray } from "drizzle-orm";
import { AppError } from "../../shared/errors.ts";
import type { Id } from "../../shared/ids.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";
import * as t from "../db/schema/index.ts";
import type { Bus, BusMessage, Fleet, Ports } from "../ports/index.ts";
import { makeId } from "../services/context.ts";
import type { AppliedWaiters } from "./applied-waiters.ts";
import type { LinkClock, LinkHandle, Socket } from "./link.ts";
import { Links } from "./links.ts";
import { TaskRuns } from "./task-runs.ts";

/**
 * Reaches hosts for the rules (the `Fleet` port), by the links of this process and by the bus. The composition root calls
 * `tick` every second, `sweep` every few, `flushSeen` every ten.
 */
export class LinkHub implements Fleet {
  #ports: Ports | undefined;
  readonly #links: Links;
  readonly #waiters: AppliedWaiters;
  readonly #bus: Bus;
  readonly #tasks = new TaskRuns();

  constructor(clock: LinkClock, waiters: AppliedWaiters, bus: Bus) {
    this.#waiters = waiters;
    this.#bus = bus;
    this.#links = new Links(clock, {
      joined: (hostId, epoch) => bus.publish({ t: "joined", hostId, epoch }),
      applied(hostId, rev, failed) {
        waiters.applied(hostId, rev, failed);
        bus.publish({ t: "applied", hostId, rev, failed });
      },
      taskEvent: (link, id, seq, data) => this.#tasks.event(id, link, seq, data),
      taskEnd: (link, id, outcome) => this.#tasks.end(id, link, outcome),
      left: (link) => this.#tasks.lost(link),
    });
    bus.subscribe((message) => this.#hear(message));
  }

  /** The hub is one of the ports and uses the others: it gets them once they are whole, before the first socket. */
  start(ports: Ports): void {
    this.#ports = ports;
    this.#links.start(ports);
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
  }

  /** Finds hosts whose revision moved without a wake-up reaching this process. */
  async sweep(): Promise<void> {
    const ids = this.#links.hostIds;
    for (let i = 0; i < ids.length; i += 500) {
      const rows = await this.#started.db.read
        .select({ id: t.hosts.id, rev: t.hosts.desiredRev })
        .from(t.hosts)
        .where(inArray(t.hosts.id, ids.slice(i, i + 500)));
      this.#links.changed(
        rows.filter((row) => this.#links.of(row.id)?.session.sentRev !== row.rev).map((row) => row.id),
      );
    }
  }

  flushSeen(): Promise<void> {
    return this.#links.flushSeen();
  }

  drain(): Promise<void> {
    return this.#links.drain();
  }

  /** How many hosts are joined here. */
  get size(): number {
    return this.#links.size;
  }

  wake(hostIds: readonly Id<"hst">[]): void {
    this.#links.changed(hostIds);
    const elsewhere = hostIds.filter((id) => this.#links.of(id) === undefined);
    if (elsewhere.length > 0) this.#bus.publish({ t: "wake", hostIds: elsewhere });
  }

  #hear(message: BusMessage): void {
    if (message.t === "wake") this.#links.changed(message.hostIds);
    else if (message.t === "applied") this.#waiters.applied(message.hostId, message.rev, message.failed);
    else this.#links.joinedElsewhere(message.hostId, message.epoch);
  }

  waitApplied: Fleet["waitApplied"] = (targets, timeoutMs) => this.#waiters.wait(targets, timeoutMs);

  isLinked(hostId: Id<"hst">): boolean {
    return this.#links.of(hostId) !== undefined;
  }

  clockOffsetMs(hostId: Id<"hst">): number | undefined {
    return this.#links.of(hostId)?.clockOffsetMs;
  }

  async *runTask(...[hostId, task, options]: Parameters<Fleet["runTask"]>): ReturnType<Fleet["runTask"]> {
    const link = this.#links.of(hostId);
    if (link === undefined) throw new AppError("host_not_online");
    const ports = this.#started;
    const id = makeId(ports, "tsk");
    // The host compares with its own clock: one that is a day off must still take tasks.
    const deadlineAt = options.deadlineAt + (link.clockOffsetMs ?? 0);
    const value = await ports.signer.sign(taskSignedBytes({ hostId, id, ...task, deadlineAt }));
    // The link may have gone while the task was signed: nobody would ever end it.
    if (!this.#links.has(link)) throw new AppError("host_not_online");
    const run = this.#tasks.start(id, link);
    const cancel = () => this.#links.send(link, { t: "task.cancel", id });
    options.signal?.addEventListener("abort", cancel, { once: true });
    try {
      this.#links.send(link, { t: "task", id, ...task, deadlineAt, signature: { keyId: ports.signer.keyId, value } });
      if (options.signal?.aborted) cancel();
      for await (const event of run.events) yield event;
    } finally {
      options.signal?.removeEventListener("abort", cancel);
      if (!run.ended) cancel();
      this.#tasks.forget(id);
    }
  }
}
