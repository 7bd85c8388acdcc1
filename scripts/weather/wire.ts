import type { LinkHandle, Socket } from "../../control-plane/link/link.ts";
import type { Dice } from "../../shared/testing/dice.ts";
import type { VirtualTime } from "./virtual-time.ts";

/**
 * What a host's way to the control plane is like. `down`: resets and refusals. `hole`: everything is held back and nobody
 * is told; it arrives when the hole closes, as TCP would have it. `deaf` and `mute`: a hole in one direction, towards the
 * host or from it. `rogue`: frames are lost, doubled (the second up to 24 s later) and out of order, as TCP never does and a
 * broken proxy may.
 */
export const WEATHERS = ["fair", "down", "hole", "deaf", "mute", "rogue"] as const;
export type Weather = (typeof WEATHERS)[number];

/** The agent's end of a connection. */
export interface NearEnd {
  opened(): void;
  text(text: string): void;
  closed(why: string): void;
}
/** Who listens at the far end; answers false when nobody does. */
export type Listener = (connection: FarEnd) => boolean;

/** The control plane's end of a connection. */
export interface FarEnd {
  /** Takes the connection: the agent learns of it, and what it sends goes to the handle. */
  accept(take: (socket: Socket) => LinkHandle): void;
}

/** What the agent does to its connection. */
export interface NearSocket {
  send(text: string): void;
  close(): void;
}

/**
 * Saw something of one connection: a frame by its `t`, or that the control plane `closed` it, or learned that it is `over`; and
 * the epoch its host said hello with. See {@link Wire.onSent}.
 */
export type Watcher = (what: { connection: number; saw: string; epoch: number }) => void;

let connections = 0;

/** One host's way to the control plane. */
export class Wire {
  readonly #time: VirtualTime;
  readonly #random: Dice;
  readonly #listener: Listener;
  #weather: Weather = "fair";
  #open = new Set<Connection>();
  /** Called for each frame the control plane sends, and when it closes. */
  onSent: Watcher = () => {};

  constructor(time: VirtualTime, random: Dice, listener: Listener) {
    this.#time = time;
    this.#random = random;
    this.#listener = listener;
  }

  get weather(): Weather {
    return this.#weather;
  }

  set weather(weather: Weather) {
    this.#weather = weather;
    for (const connection of [...this.#open]) {
      if (weather === "down") connection.reset("the network is down");
      connection.release();
    }
  }

  connect(near: NearEnd): NearSocket {
    const connection = new Connection(this.#time, this.#random, this, near);
    this.#open.add(connection);
    if (this.#weather === "down") connection.reset("connection refused");
    else
      connection.up(() => {
        if (!this.#listener(connection)) connection.reset("connection refused");
      });
    return connection;
  }

  /** The control plane's process is gone: its sockets are reset. */
  serverDied(): void {
    for (const connection of [...this.#open]) {
      connection.handle = undefined;
      connection.reset("connection reset");
    }
  }

  /** The host lost its power: nobody says anything any more on its side. */
  hostVanished(): void {
    for (const connection of this.#open) connection.near = undefined;
  }

  forget(connection: Connection): void {
    this.#open.delete(connection);
  }
}

type Way = { lastAt: number; held: (() => void)[] };

class Connection implements NearSocket, FarEnd {
  readonly id = ++connections;
  readonly #time: VirtualTime;
  readonly #random: Dice;
  readonly #wire: Wire;
  near: NearEnd | undefined;
  handle: LinkHandle | undefined;
  readonly #up: Way = { lastAt: 0, held: [] };
  readonly #down: Way = { lastAt: 0, held: [] };
  #epoch: number | undefined;
  #over = false;

  constructor(time: VirtualTime, random: Dice, wire: Wire, near: NearEnd) {
    this.#time = time;
    this.#random = random;
    this.#wire = wire;
    this.near = near;
  }

  send(text: string): void {
    this.#epoch ??= (JSON.parse(text) as { epoch?: number }).epoch;
    this.#frame(this.#up, () => this.handle?.message(text));
  }

  close(): void {
    this.near = undefined;
    this.up(() => {
      this.#end();
      this.#saw("over");
      this.handle?.closed();
    });
  }

  accept(take: (socket: Socket) => LinkHandle): void {
    this.down(() => this.near?.opened());
    this.handle = take(this.#farSocket());
  }

  #farSocket(): Socket {
    return {
      send: (text) => {
        this.#saw((JSON.parse(text) as { t: string }).t);
        this.#frame(this.#down, () => this.near?.text(text));
      },
      close: (code, reason) => {
        this.#saw("closed");
        const { handle } = this;
        this.handle = undefined;
        this.#time.after(5, () => handle?.closed());
        this.down(() => {
          this.#end();
          this.near?.closed(`closed with ${code} ${reason}`);
        });
      },
    };
  }

  #saw(saw: string): void {
    this.#wire.onSent({ connection: this.id, saw, epoch: this.#epoch ?? 0 });
  }

  /** Both ends learn that it is over, each after a moment. */
  reset(why: string): void {
    const { near, handle } = this;
    this.#end();
    this.#time.after(this.#latency(), () => near?.closed(why));
    if (handle === undefined) return;
    this.#time.after(this.#latency(), () => {
      // Only now: until it learns of the end, the control plane may still welcome the host on it.
      this.#saw("over");
      handle.closed();
    });
  }

  /** What the weather held back goes on, if it now may. */
  release(): void {
    for (const way of [this.#up, this.#down]) {
      if (this.#holds(way)) continue;
      for (const fn of way.held.splice(0)) this.#deliver(way, fn);
    }
  }

  up(fn: () => void): void {
    this.#pass(this.#up, fn);
  }

  down(fn: () => void): void {
    this.#pass(this.#down, fn);
  }

  #frame(way: Way, fn: () => void) {
    if (this.#wire.weather !== "rogue") return this.#pass(way, fn);
    const fate = this.#random();
    if (fate < 0.08) return;
    // In no order: nobody waits for what was sent before.
    this.#time.after(this.#latency() * 4, () => this.#over || fn());
    if (fate < 0.16) this.#time.after(this.#latency() * 400, () => this.#over || fn());
  }

  #pass(way: Way, fn: () => void): void {
    if (this.#holds(way)) way.held.push(fn);
    else this.#deliver(way, fn);
  }

  #deliver(way: Way, fn: () => void): void {
    way.lastAt = Math.max(way.lastAt, this.#time.mono() + this.#latency());
    this.#time.after(way.lastAt - this.#time.mono(), () => {
      if (this.#over) return;
      // The weather may have changed while it was under way.
      if (this.#holds(way)) way.held.push(fn);
      else fn();
    });
  }

  #holds(way: Way): boolean {
    const { weather } = this.#wire;
    return weather === "hole" || (weather === "deaf" && way === this.#down) || (weather === "mute" && way === this.#up);
  }

  #latency(): number {
    return 1 + this.#random() * 60;
  }

  #end(): void {
    this.#over = true;
    this.#wire.forget(this);
  }
}
