import { eq } from "drizzle-orm";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import type { PathProbe } from "../../../shared/protocol/frames.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, openHarness } from "../../testing/harness.ts";
import {
  hostsUp,
  key32,
  makePerson,
  type Network,
  networkWithLines,
  type Person,
  systemOf,
} from "../../testing/world.ts";
import { openConnection } from "../connections/open.ts";
import { observe } from "../hosts/report.ts";

const MINUTE = 60_000;

let h: Harness;
let support: Person;
let who: Person;
let network: Network;
let lineId: Id<"lin">;
let forward: Id<"hst">;
let exit: Id<"hst">;

beforeEach(async () => {
  h = await openHarness({ settings: { portQuarantineMs: 0 } });
  ({ network, who, lineId } = await networkWithLines(h));
  support = await makePerson(h, "support", "support");
  forward = network.forwards[0] as Id<"hst">;
  exit = network.exits[0] as Id<"hst">;
  await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  await hostsUp(h);
});
afterEach(() => h.close());

// biome-ignore lint/suspicious/noExplicitAny: answers are read as a client reads them
type Body = any;
const get = async (path: string): Promise<Body> =>
  (await h.request<Body>("GET", path, undefined, { headers: support.auth })).body;
const rowOf = async (id: Id<"hst">) => {
  const [row] = await h.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, id));
  if (row === undefined) throw new Error("no host");
  return row;
};
const addressOf = async (id: Id<"hst">) => (await rowOf(id)).publicAddress ?? "";
const probe = (target: string, received: number, p50Ms = 10): PathProbe => ({
  target,
  at: h.clock.now(),
  sent: 5,
  received,
  minMs: received === 0 ? null : p50Ms - 1,
  p50Ms: received === 0 ? null : p50Ms,
  maxMs: received === 0 ? null : p50Ms + 5,
});
/** One round of the host's probes, a minute after the one before. */
async function round(id: Id<"hst">, ...paths: PathProbe[]): Promise<void> {
  h.clock.advance(MINUTE);
  await observe(systemOf(h), id, (await rowOf(id)).epoch, { paths }, []);
}
const alarms = async (id: string): Promise<string[]> =>
  (await get(`/hosts/${id}/events?limit=200`)).items
    .map((event: Body) => event.kind)
    .filter((kind: string) => kind.startsWith("path_"));

test("three bad rounds in a row raise an alarm with words, five good ones clear it; both stand in the host's log", async () => {
  const target = await addressOf(exit);
  await round(forward, probe(target, 5));
  for (let i = 0; i < 2; i++) await round(forward, probe(target, 3));
  expect(await alarms(forward)).toEqual([]);
  expect((await get(`/hosts/${forward}`)).path.state).toBe("good");
  await round(forward, probe(target, 3));
  const since = new Date(h.clock.now()).toISOString();
  expect(await alarms(forward)).toEqual(["path_degraded"]);
  expect((await get(`/hosts/${forward}`)).path).toEqual({
    state: "degraded",
    segments: [
      {
        target,
        toHostId: exit,
        state: "degraded",
        since,
        last: { at: since, sent: 5, received: 3, lossPct: 40, p50Ms: 10 },
      },
    ],
  });
  for (let i = 0; i < 4; i++) await round(forward, probe(target, 5));
  expect(await alarms(forward)).toEqual(["path_degraded"]);
  await round(forward, probe(target, 5));
  expect(await alarms(forward)).toEqual(["path_recovered", "path_degraded"]);
  const log = (await get(`/hosts/${forward}/log`)).items;
  const degraded = log.find((entry: Body) => entry.kind === "path_degraded");
  expect(degraded).toMatchObject({ type: "event", item: target });
  expect(degraded.detail).toBe(`to ${exit} at ${target}: 2 of 5 lost, 10 ms (normally 10 ms)`);
});

test("a line's diagnosis names the segment that loses packets, and only of its own path", async () => {
  const [toForward, toExit] = [await addressOf(forward), await addressOf(exit)];
  const rounds = async (received: number, n: number) => {
    for (let i = 0; i < n; i++) {
      await round(network.boarding, probe(toForward, 5));
      await round(forward, probe(toExit, received));
      await round(exit, probe("198.51.100.1", 5));
    }
  };
  await rounds(5, 1);
  await hostsUp(h);
  const hops = async () => (await get(`/lines/${lineId}/diagnosis`)).hops;
  expect((await hops()).map((hop: Body) => [hop.role, hop.path?.state, hop.path?.toHostId])).toEqual([
    ["boarding", "good", forward],
    ["forward", "good", exit],
    ["exit", "good", null],
  ]);
  await rounds(2, 3);
  await hostsUp(h);
  const { findings } = await get(`/lines/${lineId}/diagnosis`);
  expect(findings.filter((f: Body) => f.code === "path_degraded")).toMatchObject([
    { severity: "warning", hostId: forward, text: expect.stringContaining("60% lost") },
  ]);
  // Its connection elsewhere, the segment is not its own any more.
  await h.ports.db.write((tx) => tx.update(t.pathSegments).set({ toHostId: network.boarding }));
  expect((await get(`/lines/${lineId}/diagnosis`)).findings.map((f: Body) => f.code)).not.toContain("path_degraded");
});

test("a host's word about addresses it has no business with is not kept: neither as a segment nor in a series", async () => {
  const rows = async () => [
    ...(await h.ports.db.read.select().from(t.pathSegments)),
    ...(await h.ports.db.read.select().from(t.pathSeries)),
  ];
  await round(forward, probe("203.0.113.99", 5));
  await round(network.boarding, probe(await addressOf(exit), 5));
  expect(await rows()).toEqual([]);
  // Only an exit knows its gateway: one address a round, whatever it lists.
  await round(exit, probe("198.51.100.1", 5), probe("198.51.100.2", 5), probe("198.51.100.3", 5));
  expect((await h.ports.db.read.select().from(t.pathSegments)).map((row) => row.target)).toEqual(["198.51.100.1"]);
  // Nor many, one after another.
  for (let i = 2; i < 12; i++) await round(exit, probe(`198.51.100.${i}`, 5));
  await round(exit, probe("198.51.100.1", 5));
  expect(await h.ports.db.read.select().from(t.pathSegments)).toHaveLength(4);
});

test("rounds are summed in buckets of five minutes: loss, least, median and most", async () => {
  const target = await addressOf(exit);
  h.clock.advance(5 * MINUTE - (h.clock.now() % (5 * MINUTE)) - MINUTE);
  for (const [received, p50] of [
    [5, 10],
    [5, 20],
    [0, 0],
    [4, 30],
    [5, 40],
    [5, 50],
  ] as const)
    await round(forward, probe(target, received, p50));
  const { items } = await get(`/hosts/${forward}/paths?target=${target}&hours=1`);
  expect(items).toMatchObject([
    { spanMs: 300_000, rounds: 5, sent: 25, received: 19, lossPct: 24, minMs: 9, medianMs: 25, maxMs: 45 },
    { rounds: 1, sent: 5, received: 5, minMs: 49, medianMs: 50, maxMs: 55 },
  ]);
  expect((await get(`/hosts/${forward}/paths?target=${target}&hours=1`)).items).toHaveLength(2);
  h.clock.advance(2 * 60 * MINUTE);
  expect((await get(`/hosts/${forward}/paths?target=${target}&hours=1`)).items).toEqual([]);
});

test("a segment that is not probed any more is no part of the path", async () => {
  const target = await addressOf(exit);
  await round(forward, probe(target, 5));
  h.clock.advance(60 * MINUTE - 1);
  expect((await get(`/hosts/${forward}`)).path.segments).toHaveLength(1);
  h.clock.advance(1);
  expect((await get(`/hosts/${forward}`)).path).toEqual({ state: "unknown", segments: [] });
});

test("a round of many probes is a few statements, and one that can't be written costs neither the link nor the rest", async () => {
  await h.close();
  h = await openHarness();
  const { boarding, forwards } = (await networkWithLines(h, { forwards: 12 })).network;
  support = await makePerson(h, "support", "support");
  const ctx = systemOf(h);
  const { write } = h.ports.db;
  let statements = 0;
  let broken = false;
  h.ports.db.write = (fn) =>
    write.call(h.ports.db, (db) =>
      fn(
        new Proxy(db, {
          get(target, name) {
            if (name === "select" || name === "insert" || name === "update" || name === "all") statements++;
            if (name === "insert" && broken) throw new Error("no more room");
            return Reflect.get(target, name);
          },
        }),
      ),
    ) as never;
  const told = async (paths: PathProbe[]) => {
    h.clock.advance(MINUTE);
    return observe(ctx, boarding, (await rowOf(boarding)).epoch, { paths, load1: h.clock.now() }, []);
  };
  const targets = await Promise.all(forwards.map(addressOf));
  const all = (received: number) => targets.map((target) => probe(target, received));
  // One said twice is judged once.
  expect(await told([...all(5), ...all(5)])).toBe(true);
  expect(h.errors).toEqual([]);
  expect(statements).toBeLessThan(10);
  for (let i = 0; i < 3; i++) await told(all(0));
  const segments = () => h.ports.db.read.select().from(t.pathSegments);
  expect((await segments()).map((one) => one.state)).toEqual(targets.map(() => "degraded"));
  expect(await alarms(boarding)).toHaveLength(12);
  broken = true;
  expect(await told(all(5))).toBe(true);
  expect((await rowOf(boarding)).observed).toMatchObject({ load1: h.clock.now() });
  expect(h.errors.filter((line) => line.includes("probes"))).toHaveLength(1);
  broken = false;
  h.errors.length = 0;
  expect(await told(all(5))).toBe(true);
  expect(new Set((await segments()).map((one) => one.lastAt))).toEqual(new Set([h.clock.now()]));
});
