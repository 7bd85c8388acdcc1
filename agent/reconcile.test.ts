import fc from "fast-check";
import { expect, test } from "vitest";
import type { StateItem, WireguardItem } from "../shared/protocol/desired-state.ts";
import type { HostEvent } from "../shared/protocol/frames.ts";
import { Reconciler, type Report } from "./reconcile.ts";
import { FakeClock } from "./testing/fake-clock.ts";
import { ModelDriver, type ModelKernel, newKernel } from "./testing/model-kernel.ts";
import { relayItem } from "./testing/session-bench.ts";

const silent = { info() {}, warn() {}, error() {} };

const tunnelItem = (peers: WireguardItem["peers"]): WireguardItem => ({
  type: "wireguard",
  id: "wg",
  interface: "tl0",
  listenPort: 51820,
  address: "10.13.13.1/24",
  mtu: 1392,
  peers,
});

/** From this port on another driver has it. */
const HIGH = 4;

/** A reconciler over a model of a kernel, with time in the test's hand. */
class Bench {
  readonly clock = new FakeClock();
  readonly kernel: ModelKernel = newKernel();
  reports: Report[] = [];
  events: HostEvent[] = [];
  reconciler!: Reconciler;
  #running: Promise<void> = Promise.resolve();
  #target: { rev: number; sha256: string; items: StateItem[] } | undefined;

  constructor() {
    this.boot();
  }

  /** A new process over the same kernel, which knows what is on disk. */
  boot(): void {
    const { clock } = this;
    this.reconciler = new Reconciler({
      drivers: [
        new ModelDriver("low", this.kernel, (port) => port < HIGH),
        new ModelDriver("high", this.kernel, (port) => port >= HIGH),
      ],
      clock,
      log: silent,
      onReport: (report) => this.reports.push(report),
      onEvents: (events) => this.events.push(...events),
    });
    if (this.#target) this.reconciler.want(this.#target);
    this.#running = this.reconciler.run();
  }

  async restart(): Promise<void> {
    this.reconciler.stop();
    await this.#running;
    this.boot();
  }

  want(rev: number, ports: readonly number[], more: readonly StateItem[] = []): void {
    const items = [...ports.map((port) => relayItem(`r${port}`, port)), ...more];
    this.#target = { rev, sha256: String(rev), items };
    this.reconciler.want(this.#target);
  }

  /** Lets time go by, and every pass that falls due run to its end. */
  async pass(ms: number): Promise<void> {
    await this.clock.advance(ms);
  }

  async end(): Promise<void> {
    this.reconciler.stop();
    await this.#running;
  }

  held(): number[] {
    return [...this.kernel.held.keys()].sort((a, b) => a - b);
  }
}

test("a state is applied, verified and reported, and what is not in the next one is removed", async () => {
  const bench = new Bench();
  bench.want(1, [1, 2, 3]);
  await bench.pass(100);
  expect(bench.held()).toEqual([1, 2, 3]);
  bench.want(2, [2]);
  await bench.pass(100);
  expect(bench.held()).toEqual([2]);
  expect(bench.reports.map((r) => [r.rev, r.allOk])).toEqual([
    [1, true],
    [2, true],
  ]);
  expect(bench.events).toEqual([]);
  await bench.end();
});

test("without any state nothing is touched; revision 0 is a state", async () => {
  const bench = new Bench();
  bench.kernel.held.set(9, "foreign");
  await bench.pass(60_000);
  expect(bench.held()).toEqual([9]);
  bench.want(0, []);
  await bench.pass(100);
  expect(bench.held()).toEqual([]);
  expect(bench.reports[0]?.rev).toBe(0);
  await bench.end();
});

test("a failed item is named, does not stop the others, and is tried again ever more rarely until it works", async () => {
  const bench = new Bench();
  bench.kernel.broken.add(2);
  bench.want(1, [1, 2, 3]);
  await bench.pass(100);
  expect(bench.held()).toEqual([1, 3]);
  expect(bench.reports[0]?.results).toEqual([
    { item: "r1", ok: true },
    { item: "r2", ok: false, error: "port 2 is broken" },
    { item: "r3", ok: true },
  ]);
  const tries = () => bench.kernel.tries.get(2) ?? 0;
  await bench.pass(600_000);
  // 1, 2, 4 … 60 s: about fifteen in ten minutes, neither sixty nor one.
  expect(tries()).toBeGreaterThan(8);
  expect(tries()).toBeLessThan(20);
  bench.kernel.broken.clear();
  await bench.pass(61_000);
  expect(bench.held()).toEqual([1, 2, 3]);
  expect(bench.reports.at(-1)?.allOk).toBe(true);
  await bench.end();
});

test("a pass of many slow failures is not taken for a loop that stands still, and is reported at its end", async () => {
  const bench = new Bench();
  const ports = Array.from({ length: 40 }, (_, i) => 10 + i);
  const still: number[] = [];
  for (const port of ports) bench.kernel.broken.add(port);
  bench.kernel.onTry = () => {
    still.push(bench.clock.mono() - bench.reconciler.aliveAt);
    bench.clock.skip(10_000);
  };
  bench.want(1, ports);
  await bench.pass(100);
  expect(still.length).toBeGreaterThanOrEqual(40);
  expect(Math.max(...still)).toBeLessThanOrEqual(10_000);
  expect(bench.reports[0]?.results.filter(({ ok }) => !ok)).toHaveLength(40);
  await bench.end();
});

test("what should be gone and can't be removed is named in the report, so that nobody takes it for gone", async () => {
  const bench = new Bench();
  bench.want(1, [1, 2]);
  await bench.pass(100);
  bench.kernel.broken.add(2);
  bench.want(2, [1]);
  await bench.pass(100);
  expect(bench.held()).toEqual([1, 2]);
  const failed = { item: "removal", ok: false, error: "port 2 is broken" };
  expect(bench.reports.at(-1)).toMatchObject({ rev: 2, allOk: false, results: [{ item: "r1", ok: true }, failed] });
  bench.kernel.mend();
  await bench.pass(61_000);
  expect(bench.held()).toEqual([1]);
  expect(bench.reports.at(-1)).toMatchObject({ rev: 2, allOk: true, results: [{ item: "r1", ok: true }] });
  await bench.end();
});

test("an item of a kind not known is told as such, the others are applied, and it is not counted as applied", async () => {
  const bench = new Bench();
  const items = [relayItem("r1", 1)];
  bench.reconciler.want({ rev: 1, sha256: "1", items, unknown: [{ id: "t", type: "teleport" }] });
  await bench.pass(100);
  expect(bench.held()).toEqual([1]);
  const failed = { item: "t", ok: false, error: 'unsupported: this agent knows no item of kind "teleport"' };
  expect(bench.reports).toEqual([{ rev: 1, sha256: "1", allOk: false, results: [{ item: "r1", ok: true }, failed] }]);
  // Nothing is tried again and again for it, and what is edited meanwhile is still drift.
  await bench.pass(60_000);
  expect(bench.reports).toHaveLength(1);
  await bench.end();
});

test("a new state is tried at once, whatever the back-off of the old", async () => {
  const bench = new Bench();
  bench.kernel.broken.add(2);
  bench.want(1, [2]);
  await bench.pass(600_000);
  bench.kernel.broken.clear();
  bench.want(2, [2]);
  await bench.pass(20);
  expect(bench.held()).toEqual([2]);
  await bench.end();
});

test("a change the kernel took and did not make is a failure", async () => {
  const bench = new Bench();
  bench.kernel.lies.add(2);
  bench.want(1, [1, 2]);
  await bench.pass(100);
  expect(bench.reports[0]?.results[1]).toMatchObject({ item: "r2", ok: false });
  expect(bench.reports[0]?.results[1]?.error).toMatch(/^verify: /);
  await bench.end();
});

test("what a change brings to light is seen to in the same pass, but not without end", async () => {
  const bench = new Bench();
  // Port 3 comes up behind port 1, as flows of an old mapping do behind the new one.
  bench.kernel.onTry = (port) => void (port === 1 && bench.kernel.held.set(3, "left behind"));
  bench.want(1, [1]);
  await bench.pass(20);
  expect(bench.held()).toEqual([1]);
  expect(bench.reports.map((r) => r.allOk)).toEqual([true]);
  let next = 0;
  bench.kernel.onTry = (port) => void (port !== 1 && bench.kernel.held.set(next--, "left behind"));
  bench.want(2, [1, 2]);
  await bench.pass(20);
  expect(bench.reports.at(-1)).toMatchObject({ rev: 2, allOk: false });
  expect(next).toBeGreaterThan(-10);
  await bench.end();
});

test("drift is repaired within 30 s and told once; the first pass after a start is not drift", async () => {
  const bench = new Bench();
  bench.want(1, [1, 2]);
  await bench.pass(100);
  bench.kernel.held.delete(1);
  bench.kernel.held.set(7, "by hand");
  await bench.pass(20_500);
  expect(bench.held()).toEqual([1, 2]);
  expect(bench.events.map((e) => e.kind)).toEqual(["drift_repaired", "drift_repaired"]);
  bench.kernel.held.clear();
  await bench.restart();
  await bench.pass(100);
  expect(bench.held()).toEqual([1, 2]);
  expect(bench.events).toHaveLength(2);
  await bench.end();
});

test("drift is seen although an item can never be had", async () => {
  const bench = new Bench();
  bench.kernel.refused.add(3);
  bench.want(1, [1, 3]);
  await bench.pass(100);
  bench.kernel.held.delete(1);
  await bench.pass(20_500);
  expect(bench.events.map((e) => e.kind)).toEqual(["drift_repaired"]);
  await bench.end();
});

test("a newer state cuts the pass over the older one short, and only the newer one is reported", async () => {
  const bench = new Bench();
  bench.kernel.onTry = (port) => {
    if (port === 1) bench.want(2, [2]);
  };
  bench.want(1, [1, 2, 3]);
  await bench.pass(100);
  expect(bench.held()).toEqual([2]);
  expect(bench.kernel.tries.has(3)).toBe(false);
  expect(bench.reports.map((r) => r.rev)).toEqual([2]);
  await bench.end();
});

test("what expires while a pass is under way is removed at once, not with the next look for drift", async () => {
  const bench = new Bench();
  const peer = { publicKey: "k", allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter: bench.clock.wall() + 1000 };
  bench.kernel.onTry = () => bench.clock.skip(1500);
  const plans: number[] = [];
  bench.kernel.onPlan = (now) => plans.push(now - (bench.clock.wall() - bench.clock.mono()));
  bench.want(1, [1], [tunnelItem([peer])]);
  await bench.pass(20);
  expect(plans.at(-1)).toBeGreaterThanOrEqual(1500);
  await bench.end();
});

test("an equal kernel is not written to, whatever restarts", async () => {
  const bench = new Bench();
  bench.want(1, [1, 2, 3]);
  await bench.pass(100);
  const writes = bench.kernel.writes;
  await bench.restart();
  await bench.pass(60_000);
  expect(bench.kernel.writes).toBe(writes);
  await bench.end();
});

test("a new state is looked at by the drivers whose part of it is new, and by all every 20 s", async () => {
  const bench = new Bench();
  const looks = () => Object.fromEntries(bench.kernel.looks);
  bench.want(1, [1, 4]);
  await bench.pass(100);
  // Each looks before it changes something and after.
  expect(looks()).toEqual({ low: 2, high: 2 });
  bench.want(2, [1, 5]);
  await bench.pass(100);
  expect(looks()).toEqual({ low: 2, high: 4 });
  expect(bench.reports.at(-1)).toMatchObject({ rev: 2, allOk: true });
  await bench.pass(20_000);
  expect(looks()).toEqual({ low: 3, high: 5 });
  await bench.end();
});

test("what could not be had is named in the answers to later states too, whoever looks", async () => {
  const bench = new Bench();
  bench.kernel.refused.add(2);
  bench.kernel.broken.add(3);
  bench.want(1, [1, 2, 3, 4]);
  await bench.pass(100);
  bench.want(2, [1, 2, 3, 5]);
  await bench.pass(100);
  const failed = bench.reports.at(-1)?.results.filter((r) => !r.ok);
  expect(failed?.map((r) => r.item)).toEqual(["r2", "r3"]);
  bench.kernel.broken.clear();
  await bench.pass(3000);
  expect(bench.held()).toEqual([1, 3, 5]);
  bench.want(3, [1, 2, 3, 6]);
  await bench.pass(100);
  expect(
    bench.reports
      .at(-1)
      ?.results.filter((r) => !r.ok)
      .map((r) => r.item),
  ).toEqual(["r2"]);
  await bench.end();
});

test("drift is repaired within 30 s on a host whose state changes all the time", async () => {
  const bench = new Bench();
  bench.want(1, [1, 4]);
  await bench.pass(100);
  bench.kernel.held.set(2, "by hand");
  const before = bench.clock.mono();
  let rev = 1;
  let repairedMs: number | undefined;
  // Each state arrives while the one before is being made.
  bench.kernel.onTry = (port) => {
    if (port === 2) repairedMs ??= bench.clock.mono() - before;
    if (port >= HIGH && bench.clock.mono() - before < 40_000) {
      bench.clock.skip(50);
      bench.want(++rev, [1, 4 + (rev % 3)]);
    }
  };
  bench.want(++rev, [1, 5]);
  while (bench.clock.mono() - before < 60_000) await bench.pass(100);
  expect(rev).toBeGreaterThan(300);
  expect(repairedMs).toBeLessThan(30_000);
  await bench.end();
});

const port = fc.integer({ min: 1, max: 6 });
const action = fc.oneof(
  fc.record({ do: fc.constant("want" as const), ports: fc.uniqueArray(port) }),
  fc.record({ do: fc.constant("edit" as const), port, value: fc.constantFrom("gone", "wrong") }),
  fc.record({ do: fc.constant("break" as const), port }),
  fc.record({ do: fc.constant("lie" as const), port }),
  fc.record({ do: fc.constant("blind" as const) }),
  fc.record({ do: fc.constant("mend" as const) }),
  fc.record({ do: fc.constant("restart" as const) }),
  fc.record({ do: fc.constant("pass" as const), ms: fc.integer({ min: 0, max: 90_000 }) }),
);

test("whatever was asked, edited, broken and restarted: once the kernel obeys again it holds what was asked last", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 25 }), async (actions) => {
      const bench = new Bench();
      let rev = 0;
      let wanted: number[] = [];
      bench.want(rev, wanted);
      for (const a of actions) {
        if (a.do === "want") {
          wanted = a.ports;
          rev += 1;
          bench.want(rev, wanted);
        } else if (a.do === "edit" && a.value === "gone") bench.kernel.held.delete(a.port);
        else if (a.do === "edit") bench.kernel.held.set(a.port, "by hand");
        else if (a.do === "break") bench.kernel.broken.add(a.port);
        else if (a.do === "lie") bench.kernel.lies.add(a.port);
        else if (a.do === "blind") bench.kernel.blind = true;
        else if (a.do === "mend") bench.kernel.mend();
        else if (a.do === "restart") await bench.restart();
        else await bench.pass(a.ms);
      }
      bench.kernel.mend();
      await bench.pass(75_000);
      expect(bench.held()).toEqual([...wanted].sort((x, y) => x - y));
      for (const [p, value] of bench.kernel.held) expect(value).toBe(`r${p}`);
      expect(bench.reports.at(-1)).toMatchObject({ rev, allOk: true });
      await bench.end();
    }),
    { numRuns: 200 },
  );
});
