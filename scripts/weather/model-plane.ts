import { staticCloud } from "../../control-plane/adapters/cloud/static.ts";
import { runDueJobs } from "../../control-plane/jobs/run-due.ts";
import { AppliedWaiters, type Delay } from "../../control-plane/link/applied-waiters.ts";
import { LinkHub } from "../../control-plane/link/hub.ts";
import type { LinkHandle, Socket } from "../../control-plane/link/link.ts";
import type { Bus, Database, Ports } from "../../control-plane/ports/index.ts";
import type { Dice } from "../../shared/testing/dice.ts";
import type { VirtualTime } from "./virtual-time.ts";
import type { FarEnd } from "./wire.ts";

const alone: Bus = { publish() {}, subscribe() {}, async close() {} };

/** One process of the control plane. */
interface Process {
  hub: LinkHub;
  ports: Ports;
  dead: boolean;
  timers: (() => void)[];
}

/** The control plane's core: the real hub, services and jobs on a real database, in processes that can die at any moment. */
export class ModelPlane {
  readonly #time: VirtualTime;
  readonly #random: Dice;
  readonly #base: Ports;
  readonly #died: () => void;
  #db: Database;
  #process: Process | undefined;
  /** Whether it was started since it was last told to end. */
  #again = false;
  /** What went wrong inside: every entry is a fault of the product or of the model. */
  readonly faults: string[] = [];
  /** Its wall clock less the true one, ms. */
  skewMs = 0;

  /** @param died tells the wires that the process's sockets are reset */
  constructor(time: VirtualTime, random: Dice, base: Ports, db: Database, died: () => void) {
    this.#time = time;
    this.#random = random;
    this.#base = base;
    this.#db = db;
    this.#died = died;
  }

  get running(): boolean {
    return this.#process !== undefined;
  }

  get hub(): LinkHub | undefined {
    return this.#process?.hub;
  }

  get db(): Database {
    return this.#db;
  }

  /** The ports of the process that runs, or of nobody while none does. */
  get ports(): Ports | undefined {
    return this.#process?.ports;
  }

  start(): void {
    this.#again = true;
    if (this.#process !== undefined) return;
    const time = this.#time;
    const db = this.#db;
    const wall = () => time.wall() + this.skewMs;
    const process: Process = { dead: false, timers: [] } as unknown as Process;
    const delay: Delay = (ms, fn) => time.after(ms, () => process.dead || fn());
    const waiters = new AppliedWaiters(db, delay);
    process.hub = new LinkHub({ monotonic: time.mono, wall }, waiters, alone, delay);
    const note = (event: string, fields?: Record<string, unknown>) => {
      if (!process.dead)
        this.faults.push(`${event}: ${String((fields?.error as Error)?.stack ?? fields?.error ?? "")}`);
    };
    let rung = true;
    process.ports = {
      ...this.#base,
      db: { ...boundTo(db), write: this.#slowWrites(db, process) },
      clock: { now: wall },
      delay,
      fleet: process.hub,
      log: { info() {}, warn() {}, error: note },
      jobBell: {
        ring: () => {
          rung = true;
        },
      },
    };
    process.ports.cloud = staticCloud(process.ports);
    process.hub.start(process.ports);
    let working = false;
    const work = async () => {
      working = true;
      while ((await runDueJobs(process.ports, 8)) > 0);
      working = false;
    };
    const guarded = (what: string, promise: Promise<void>) => promise.catch((error) => note(what, { error }));
    process.timers = [
      time.every(1000, () => process.hub.tick()),
      time.every(5000, () => void guarded("sweep", process.hub.sweep())),
      time.every(10_000, () => void guarded("heartbeats", process.hub.flushSeen())),
      time.every(1000, () => {
        if (!rung || working) return;
        rung = false;
        void guarded("jobs", work());
      }),
      time.every(20_000, () => {
        rung = true;
      }),
    ];
    this.#process = process;
  }

  /** kill -9. */
  kill(): void {
    const process = this.#process;
    if (process === undefined) return;
    this.#process = undefined;
    process.dead = true;
    for (const end of process.timers) end();
    this.#died();
  }

  /** SIGTERM: says goodbye first. Started meanwhile, it begins anew when the old process is gone. */
  async drain(): Promise<void> {
    const process = this.#process;
    if (process === undefined) return;
    this.#again = false;
    await process.hub.drain();
    if (this.#process !== process) return;
    this.kill();
    if (this.#again) this.start();
  }

  /** The database becomes another one, as after a restore. Kill the process first. */
  use(db: Database): void {
    this.#db = db;
  }

  /** A host connects; answers false when no process listens. */
  accept(connection: FarEnd): boolean {
    const process = this.#process;
    if (process === undefined) return false;
    connection.accept((socket) => {
      const handle = process.hub.accept({
        send: (text) => process.dead || socket.send(text),
        close: (code, reason) => process.dead || socket.close(code, reason),
      } as Socket);
      return {
        message: (text: string) => process.dead || handle.message(text),
        closed: () => process.dead || handle.closed(),
      } as LinkHandle;
    });
    return true;
  }

  /** Writes take their time, one after another; those of a dead process never begin. */
  #slowWrites(db: Database, process: Process): Database["write"] {
    let last: Promise<unknown> = Promise.resolve();
    return (fn) => {
      const result = last.then(async () => {
        await this.#time.sleep(this.#random() ** 4 * 200);
        if (process.dead) await new Promise(() => {});
        return db.write(fn);
      });
      last = result.catch(() => {});
      // The answer has a way of its own to go, as from a database on another machine: a later write's may be here first.
      return result.finally(() => this.#time.sleep(this.#random() ** 4 * 200));
    };
  }
}

function boundTo(db: Database): Database {
  return { read: db.read, write: db.write.bind(db), ping: db.ping.bind(db), close: db.close.bind(db) };
}
