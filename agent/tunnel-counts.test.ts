import fc from "fast-check";
import { expect, test } from "vitest";
import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { SeenPeer } from "./drivers/wireguard-dump.ts";
import { TunnelCounts, tunnelCountsSchema } from "./tunnel-counts.ts";

const KEYS = ["A", "B", "C"].map((c) => `${c.repeat(42)}A=`);
const itemsWith = (keys: Iterable<string>): StateItem[] => [
  {
    type: "wireguard",
    id: "tunnel",
    interface: "tl0",
    listenPort: 51_820,
    address: "10.13.13.1/24",
    mtu: 1392,
    peers: [...keys].map((publicKey) => ({ publicKey, allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter: null })),
  },
];

/** A kernel with one tunnel, and an agent that looks at it and may be killed. */
class World {
  readonly held = new Map<string, [number, number]>();
  wanted = new Set<string>();
  /** What moved and was there to be seen when the agent looked, by direction. */
  readonly moved: [number, number] = [0, 0];
  #unseen = new Map<string, [number, number]>();
  /** The newest figures the control plane was told of each life. */
  readonly told = new Map<string, [number, number]>();
  denied = 0;
  #disk: string | null = null;
  #lives = 0;
  counts = this.#start();

  #start(): TunnelCounts {
    const kept = this.#disk === null ? null : tunnelCountsSchema.parse(JSON.parse(this.#disk));
    return new TunnelCounts(
      kept,
      (lives) => {
        this.#disk = JSON.stringify(lives);
      },
      () => (++this.#lives).toString(16).padStart(16, "0"),
      () => 0,
    );
  }

  move(key: string, rx: number, tx: number): void {
    const held = this.held.get(key);
    if (!held) return;
    const unseen = this.#unseen.get(key) ?? [0, 0];
    this.held.set(key, [held[0] + rx, held[1] + tx]);
    this.#unseen.set(key, [unseen[0] + rx, unseen[1] + tx]);
  }

  /** What was counted is the model's only when somebody looked before the kernel forgot it. */
  look(): void {
    const seen = [...this.held].map(([publicKey, [rxBytes, txBytes]]) => ({ publicKey, rxBytes, txBytes }) as SeenPeer);
    this.counts.peers(this.counts.ticket(), "tl0", seen, itemsWith(this.wanted));
    for (const [rx, tx] of this.#unseen.values()) {
      this.moved[0] += rx;
      this.moved[1] += tx;
    }
    this.#unseen.clear();
  }

  /** A pass of the driver: a look, then the change. */
  apply(): void {
    this.look();
    for (const key of this.held.keys()) if (!this.wanted.has(key)) this.held.delete(key);
    for (const key of this.wanted) if (!this.held.has(key)) this.held.set(key, [0, 0]);
    this.look();
    this.counts.save();
  }

  observe(): void {
    this.look();
    this.counts.save();
    const { usage, usageEnded } = this.counts.told();
    for (const { life, rxBytes, txBytes } of [...(usage?.peers ?? []), ...(usageEnded ?? [])])
      this.told.set(life, [rxBytes, txBytes]);
  }

  /** Hand-made or by a reboot: the kernel's counters begin anew, and nobody looked before. */
  reset(): void {
    this.held.clear();
    this.#unseen.clear();
    // The agent finds the peers missing and makes them again.
    this.apply();
  }

  kill(): void {
    this.counts = this.#start();
  }

  get sum(): [number, number] {
    const all = [...this.told.values()];
    return [all.reduce((n, [rx]) => n + rx, 0), all.reduce((n, [, tx]) => n + tx, 0)];
  }
}

const bytes = fc.nat(1000);
const key = fc.constantFrom(...KEYS);
const step = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant("move" as const), key, rx: bytes, tx: bytes }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("want" as const), key: fc.option(key), apply: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("observe", "look", "apply", "reset", "kill") }) },
);

test("what peers moved is told once, whatever restarts, is replaced or begins anew", () => {
  const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
  process.stdout.write(`tunnel counts: FC_SEED=${seed}\n`);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const world = new World();
      const highest = new Map<string, [number, number]>();
      for (const s of steps) {
        if (s.do === "move") world.move(s.key, s.rx, s.tx);
        else if (s.do === "want") {
          world.wanted = new Set(s.key === null ? [] : [s.key]);
          if (s.apply) world.apply();
        } else if (s.do === "kill") {
          // Dies right after it kept its counts: what it loses otherwise is bounded by the time since, and less, never more.
          world.counts.save();
          world.kill();
        } else if (s.do === "reset") world.reset();
        else world[s.do as "observe" | "look" | "apply"]();
        for (const [life, [rx, tx]] of world.told) {
          const [hadRx, hadTx] = highest.get(life) ?? [0, 0];
          expect(rx).toBeGreaterThanOrEqual(hadRx);
          expect(tx).toBeGreaterThanOrEqual(hadTx);
          highest.set(life, [rx, tx]);
        }
      }
      world.observe();
      expect(world.sum).toEqual(world.moved);
    }),
    { seed, numRuns: 2000 },
  );
});

test("a killed agent never tells more than was moved, whenever it died", () => {
  const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
  process.stdout.write(`tunnel counts, killed: FC_SEED=${seed}\n`);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const world = new World();
      for (const s of steps) {
        if (s.do === "move") world.move(s.key, s.rx, s.tx);
        else if (s.do === "want") {
          world.wanted = new Set(s.key === null ? [] : [s.key]);
          if (s.apply) world.apply();
        } else world[s.do as "observe" | "look" | "apply" | "reset" | "kill"]();
      }
      world.observe();
      expect(world.sum[0]).toBeLessThanOrEqual(world.moved[0]);
      expect(world.sum[1]).toBeLessThanOrEqual(world.moved[1]);
    }),
    { seed, numRuns: 2000 },
  );
});

test("of two readings at once the one begun first counts for nothing when it ends last", () => {
  const world = new World();
  world.wanted = new Set([KEYS[0] as string]);
  world.apply();
  const early = world.counts.ticket();
  world.move(KEYS[0] as string, 100, 200);
  world.observe();
  const stale = [{ publicKey: KEYS[0], rxBytes: 50, txBytes: 50 } as SeenPeer];
  world.counts.peers(early, "tl0", stale, itemsWith(world.wanted));
  world.observe();
  expect(world.sum).toEqual([100, 200]);
});

test("what a whitelist refused is counted over tables made anew, and names only where there is a resolver", () => {
  const counts = new World().counts;
  const told = () => counts.told().usage?.denied.map(({ packets, names }) => [packets, names]);
  counts.peers(counts.ticket(), "tl0", undefined, itemsWith([]));
  counts.denied("tl0", 5, 2);
  counts.denied("tl0", 7, undefined);
  counts.denied("tl0", 3, 2);
  counts.denied("tl0", 4, 6);
  expect(told()).toEqual([[11, 6]]);
  const found = new World().counts;
  found.denied("tl0", 500, 20);
  expect(found.told().usage?.denied[0]).toMatchObject({ packets: 0, names: 0 });
});

test("a peer that was made again counts from its first byte, one found without memory from here on", () => {
  const key = KEYS[0] as string;
  const { counts } = new World();
  const look = (rxBytes?: number) => {
    const seen = rxBytes === undefined ? [] : [{ publicKey: key, rxBytes, txBytes: 0 } as SeenPeer];
    counts.peers(counts.ticket(), "tl0", seen, itemsWith([key]));
    return counts.told().usage?.peers.map((peer) => peer.rxBytes);
  };
  // Found by an agent that knows nothing of it: what it has may have been told before.
  expect(look(500)).toEqual([0]);
  expect(look(600)).toEqual([100]);
  // Missing when looked at, made again, and past its old count by the next look.
  look();
  expect(look(700)).toEqual([800]);
});
