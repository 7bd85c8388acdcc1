import { eq } from "drizzle-orm";
import fc from "fast-check";
import { expect, test } from "vitest";
import { businessDay, shiftDay } from "../../../shared/calendar.ts";
import type { Id } from "../../../shared/ids.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, makeHarness, openHarness } from "../../testing/harness.ts";
import { note, propertySeed } from "../../testing/note.ts";
import {
  buyLines,
  hostsUp,
  key32,
  makeCustomer,
  makeNetwork,
  type Person,
  stockCatalogue,
  systemOf,
} from "../../testing/world.ts";
import { closeConnection } from "../connections/close.ts";
import { openConnection } from "../connections/open.ts";
import { getLine } from "../lines/read.ts";
import { sweep } from "../retention/sweep.ts";
import { UsageQueue } from "./queue.ts";
import { readUsage, USAGE_KEEP_DAYS } from "./read.ts";
import { recordUsage, type UsageReport } from "./record.ts";

const DAY_MS = 86_400_000;

async function makeWorld(h: Harness, lines = 2) {
  await stockCatalogue(h);
  await makeNetwork(h, { forwards: 1, exits: lines, ports: 20 });
  const who = await makeCustomer(h, "customer");
  const lineIds = await buyLines(h, who, lines);
  const exits: Id<"hst">[] = [];
  for (const id of lineIds) {
    const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, id));
    if (line?.exitHostId) exits.push(line.exitHostId);
  }
  return { who, lineIds, exits };
}

const lifeOf = (n: number) => n.toString(16).padStart(16, "0");
const peer = (life: number, publicKey: string, rxBytes: number, txBytes: number) => ({
  life: lifeOf(life),
  publicKey,
  rxBytes,
  txBytes,
  lastHandshakeAt: null as number | null,
});

function report(h: Harness, hostId: Id<"hst">, values: Partial<UsageReport>): UsageReport {
  return { hostId, epoch: 0, at: h.clock.now(), clockOffsetMs: 0, usage: undefined, ended: undefined, ...values };
}
const withPeers = (peers: ReturnType<typeof peer>[]) => ({ usage: { peers, denied: [] } });

async function open(who: Person, lineId: Id<"lin">, clientPublicKey: string) {
  return openConnection(who.ctx, { lineId, clientPublicKey }, 0);
}

type Step =
  | { do: "move"; line: number; rx: number; tx: number; refused: number }
  | { do: "reopen"; line: number; sameKey: boolean }
  /** What an exit says now, as it arrives: once, twice, or never. */
  | { do: "tell"; line: number; times: number }
  /** Something it said before, arriving late. */
  | { do: "old"; nth: number }
  | { do: "pass"; ms: number };

const amount = fc.nat(10_000);
const line = fc.nat(1);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("move" as const), line, rx: amount, tx: amount, refused: fc.nat(5) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("reopen" as const), line, sameKey: fc.boolean() }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("tell" as const), line, times: fc.nat(2) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("old" as const), nth: fc.nat(50) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("pass" as const), ms: fc.nat(DAY_MS / 2) }) },
);

test("a line's use is what its exit counted, once, whatever is repeated, late, lost or told of a connection that ended", async () => {
  let steps = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (all) => {
      const h = await openHarness();
      try {
        const { who, lineIds, exits } = await makeWorld(h);
        const ctx = systemOf(h);
        let lives = 100;
        const exit = await Promise.all(
          lineIds.map(async (lineId, i) => {
            const key = key32(h);
            await open(who, lineId, key);
            return {
              now: { ...peer(++lives, key, 0, 0) },
              ended: [] as ReturnType<typeof peer>[],
              denied: { life: lifeOf(i + 1), packets: 0, names: 0 },
            };
          }),
        );
        const sent: UsageReport[] = [];
        // By line and day of arrival, what was not yet told when it arrived: the model.
        const model = new Map<string, number>();
        const known = exit.map(() => 0);
        const total = (i: number) => {
          const e = exit[i];
          if (e === undefined) throw new Error("no exit");
          return [e.now, ...e.ended].reduce((n, p) => n + p.rxBytes + 1_000_000 * p.txBytes, 0);
        };
        for (const s of all) {
          steps++;
          if (s.do === "pass") h.clock.advance(s.ms);
          else if (s.do === "old") {
            const late = sent[s.nth % Math.max(1, sent.length)];
            if (late !== undefined) await recordUsage(ctx, [structuredClone(late)]);
          } else {
            const e = exit[s.line];
            const [lineId, hostId] = [lineIds[s.line], exits[s.line]];
            if (e === undefined || lineId === undefined || hostId === undefined) throw new Error("no line");
            if (s.do === "move") {
              e.now.rxBytes += s.rx;
              e.now.txBytes += s.tx;
              e.denied.packets += s.refused;
            } else if (s.do === "reopen") {
              const key = s.sameKey ? e.now.publicKey : key32(h);
              // Long after: the quota of opens is not what this is about.
              h.clock.advance(2_000);
              await hostsUp(h);
              await open(who, lineId, key);
              e.ended.push(e.now);
              e.now = peer(++lives, key, 0, 0);
            } else {
              const usage = { peers: [e.now], denied: [e.denied] };
              const told = report(h, hostId, structuredClone({ usage, ended: e.ended }));
              sent.push(told);
              for (let n = 0; n < s.times; n++) await recordUsage(ctx, n === 1 ? [told, told] : [told]);
              if (s.times === 0) {
                sent.pop();
                continue;
              }
              const key = `${lineId} ${businessDay(told.at)}`;
              model.set(key, (model.get(key) ?? 0) + total(s.line) - (known[s.line] ?? 0));
              known[s.line] = total(s.line);
            }
          }
        }
        const rows = await h.ports.db.read.select().from(t.lineUsage);
        for (const row of rows) {
          const key = `${row.lineId} ${row.day}`;
          expect(row.upBytes + 1_000_000 * row.downBytes).toBe(model.get(key) ?? 0);
          model.delete(key);
        }
        expect([...model.values()].filter((n) => n > 0)).toEqual([]);
        // The connections' figures are the lines' too, and refusals were counted once.
        for (const [i, lineId] of lineIds.entries()) {
          const used = (
            await h.ports.db.read.select().from(t.connectionUsage).where(eq(t.connectionUsage.lineId, lineId))
          )
            .map((row) => row.upBytes + 1_000_000 * row.downBytes)
            .reduce((a, b) => a + b, 0);
          expect(used).toBe(known[i]);
          const refused = rows.filter((row) => row.lineId === lineId).reduce((n, row) => n + row.deniedPackets, 0);
          expect(refused).toBeLessThanOrEqual(exit[i]?.denied.packets ?? 0);
          const last = sent.filter((r) => r.hostId === exits[i]).at(-1);
          expect(refused).toBe(last?.usage?.denied[0]?.packets ?? 0);
        }
      } finally {
        await h.close();
      }
    }),
    { seed: propertySeed("line usage"), numRuns: 12 },
  );
  note(`line usage: ${steps} steps`);
});

test("an exit tells of its own line's use only, and an old session of none", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h);
  const [mine, other] = lineIds as [Id<"lin">, Id<"lin">];
  const [exit, stranger] = exits as [Id<"hst">, Id<"hst">];
  const key = key32(h);
  await open(who, mine, key);
  const told = withPeers([peer(1, key, 500, 600)]);
  expect(await recordUsage(systemOf(h), [report(h, stranger, told)])).toBe(0);
  await h.ports.db.write((db) => db.update(t.hosts).set({ epoch: 5 }).where(eq(t.hosts.id, exit)));
  expect(await recordUsage(systemOf(h), [report(h, exit, { ...told, epoch: 4 })])).toBe(0);
  expect(await h.ports.db.read.select().from(t.lineUsage)).toEqual([]);
  expect(await recordUsage(systemOf(h), [report(h, exit, { ...told, epoch: 5 })])).toBe(1);
  // A count of the same name on another host is another count.
  const otherKey = key32(h);
  await open(who, other, otherKey);
  expect(await recordUsage(systemOf(h), [report(h, stranger, withPeers([peer(1, otherKey, 70, 80)]))])).toBe(1);
  expect((await readUsage(who.ctx, mine, {})).items.at(-1)).toMatchObject({ upBytes: 500, downBytes: 600 });
  expect((await readUsage(who.ctx, other, {})).items.at(-1)).toMatchObject({ upBytes: 70, downBytes: 80 });
});

test("a line shows when its client was last there, by our clock, and what its open connection moved", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h, 1);
  const [lineId] = lineIds as [Id<"lin">];
  const [exit] = exits as [Id<"hst">];
  expect(await getLine(who.ctx, lineId)).toMatchObject({ clientLastSeenAt: null, connection: null });
  const key = key32(h);
  const first = await open(who, lineId, key);
  const now = h.clock.now();
  // The host's clock is an hour ahead.
  const seen = { ...peer(1, key, 10, 20), lastHandshakeAt: now - 30_000 + 3_600_000 };
  const usage = { peers: [seen], denied: [{ life: lifeOf(2), packets: 7, names: 3 }] };
  await recordUsage(systemOf(h), [report(h, exit, { usage, clockOffsetMs: 3_600_000 })]);
  const iso = (at: number) => new Date(at).toISOString();
  expect(await getLine(who.ctx, lineId)).toMatchObject({
    clientLastSeenAt: iso(now - 30_000),
    connection: { id: first.id, upBytes: 10, downBytes: 20, lastHandshakeAt: iso(now - 30_000), lastBytesAt: iso(now) },
    today: { day: businessDay(now), upBytes: 10, downBytes: 20, deniedPackets: 7, deniedNames: 3 },
  });
  // Sent to, but silent: it is not there.
  h.clock.advance(60_000);
  await recordUsage(systemOf(h), [report(h, exit, withPeers([{ ...seen, txBytes: 99, lastHandshakeAt: null }]))]);
  expect((await getLine(who.ctx, lineId)).connection).toMatchObject({ downBytes: 99, lastBytesAt: iso(now) });
  // The last count of a closed connection still arrives.
  await closeConnection(who.ctx, first.id, 0);
  await recordUsage(systemOf(h), [report(h, exit, { ended: [peer(1, key, 15, 99)] })]);
  expect(await getLine(who.ctx, lineId)).toMatchObject({
    clientLastSeenAt: iso(now - 30_000),
    connection: null,
    today: { upBytes: 15, downBytes: 99 },
  });
});

test("usage is answered day by day in +08:00, half-open, and swept after so many days", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h, 1);
  const [lineId] = lineIds as [Id<"lin">];
  const [exit] = exits as [Id<"hst">];
  const key = key32(h);
  await open(who, lineId, key);
  // A millisecond before midnight in Shanghai, and at midnight.
  const midnight = Math.ceil((h.clock.now() + 8 * 3_600_000) / DAY_MS) * DAY_MS - 8 * 3_600_000;
  const tell = (at: number, rx: number) =>
    recordUsage(systemOf(h), [report(h, exit, { ...withPeers([peer(1, key, rx, 0)]), at })]);
  await tell(midnight - 1, 100);
  await tell(midnight, 130);
  const day = businessDay(midnight);
  const before = shiftDay(day, -1);
  const days = async (from: string, to: string) =>
    (await readUsage(who.ctx, lineId, { from, to })).items.map((one) => [one.day, one.upBytes]);
  expect(await days(before, shiftDay(day, 2))).toEqual([
    [before, 100],
    [day, 30],
    [shiftDay(day, 1), 0],
  ]);
  expect(await days(before, day)).toEqual([[before, 100]]);
  await expect(days(day, day)).rejects.toMatchObject({ code: "validation_failed" });
  await expect(days("2020-01-01", day)).rejects.toMatchObject({ code: "validation_failed" });
  expect((await readUsage(who.ctx, lineId, { from: shiftDay(day, -USAGE_KEEP_DAYS), to: day })).items).toHaveLength(
    USAGE_KEEP_DAYS,
  );
  h.clock.advance(midnight - h.clock.now() + USAGE_KEEP_DAYS * DAY_MS);
  // The day before is 401 days old, the day itself 400; the count that both came from has not grown since.
  await sweep(systemOf(h));
  expect((await h.ports.db.read.select().from(t.lineUsage)).map((row) => row.day)).toEqual([day]);
  expect(await h.ports.db.read.select().from(t.usageMeters)).toHaveLength(1);
  h.clock.advance(1);
  await sweep(systemOf(h));
  expect(await h.ports.db.read.select().from(t.usageMeters)).toEqual([]);
});

test("reports wait for the flush, the newest of each host, and survive a database that is away", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h, 1);
  const [lineId] = lineIds as [Id<"lin">];
  const [exit] = exits as [Id<"hst">];
  const key = key32(h);
  await open(who, lineId, key);
  const queue = new UsageQueue();
  const tell = (values: Observation) => queue.add(exit, { epoch: 0, at: h.clock.now(), clockOffsetMs: 0 }, values);
  tell({ usage: { peers: [peer(2, key, 1, 1)], denied: [] }, usageEnded: [peer(1, key, 1000, 0)] });
  const { write } = h.ports.db;
  let writes = 0;
  h.ports.db.write = async () => {
    throw new Error("away");
  };
  await expect(queue.flush(systemOf(h))).rejects.toThrow("away");
  tell({ usage: { peers: [peer(2, key, 50, 5)], denied: [] } });
  tell({ load1: 1 });
  h.ports.db.write = (fn) => {
    writes++;
    return write(fn);
  };
  await queue.flush(systemOf(h));
  await queue.flush(systemOf(h));
  expect(writes).toBe(1);
  expect((await readUsage(who.ctx, lineId, {})).items.at(-1)).toMatchObject({ upBytes: 1050, downBytes: 5 });
});

test("the reports of a whole fleet after a restore, more counts than a statement has values, are all added once", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h, 2);
  const [lineId] = lineIds as [Id<"lin">];
  const [exit] = exits as [Id<"hst">];
  const key = key32(h);
  await open(who, lineId, key);
  // As of 40 hosts, all of this one.
  const lives = Array.from({ length: 40_000 }, (_, i) => peer(i, key, 1, 2));
  const reports = Array.from({ length: 40 }, (_, i) =>
    report(h, exit, withPeers(lives.slice(1000 * i, 1000 * i + 1000))),
  );
  expect(await recordUsage(systemOf(h), reports)).toBe(40_000);
  expect((await readUsage(who.ctx, lineId, {})).items.at(-1)).toMatchObject({ upBytes: 40_000, downBytes: 80_000 });
});

test("an exit that makes up counts without end fills no table, and an honest one's stay as they are", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h, 2);
  const [mine, other] = lineIds as [Id<"lin">, Id<"lin">];
  const [liar, honest] = exits as [Id<"hst">, Id<"hst">];
  const [key, otherKey] = [key32(h), key32(h)];
  await open(who, mine, key);
  await open(who, other, otherKey);
  const told = report(h, honest, { usage: { ...withPeers([peer(1, otherKey, 70, 80)]).usage, denied: [] } });
  await recordUsage(systemOf(h), [told]);
  for (let round = 0; round < 12; round++) {
    h.clock.advance(15_000);
    const peers = Array.from({ length: 1024 }, (_, i) => peer(round * 1024 + i, key, 1, 0));
    await recordUsage(systemOf(h), [report(h, liar, withPeers(peers))]);
    const rows = await h.ports.db.read.select().from(t.usageMeters).where(eq(t.usageMeters.hostId, liar));
    expect(rows.length).toBeLessThanOrEqual(4096);
    // What it told last is known.
    expect(await recordUsage(systemOf(h), [report(h, liar, withPeers(peers))])).toBe(0);
  }
  expect(await recordUsage(systemOf(h), [told])).toBe(0);
  expect((await readUsage(who.ctx, other, {})).items.at(-1)).toMatchObject({ upBytes: 70, downBytes: 80 });
});

test("what a whitelist refused is added once however long it stands still, and forgotten when nobody tells of it", async () => {
  const h = await makeHarness();
  const { who, lineIds, exits } = await makeWorld(h, 1);
  const [lineId] = lineIds as [Id<"lin">];
  const [exit] = exits as [Id<"hst">];
  const tell = () =>
    recordUsage(systemOf(h), [
      report(h, exit, { usage: { peers: [], denied: [{ life: lifeOf(1), packets: 7, names: 3 }] } }),
    ]);
  expect(await tell()).toBe(1);
  const refused = async () =>
    (await readUsage(who.ctx, lineId, {})).items.reduce((sum, day) => sum + day.deniedPackets, 0);
  expect(await refused()).toBe(7);
  // Half the time that it is kept, four times over.
  for (let i = 0; i < 4; i++) {
    h.clock.advance((USAGE_KEEP_DAYS / 2) * DAY_MS);
    expect(await tell()).toBe(0);
    await sweep(systemOf(h));
    expect(await h.ports.db.read.select().from(t.usageMeters)).toHaveLength(1);
  }
  expect(await refused()).toBe(0);
  h.clock.advance(USAGE_KEEP_DAYS * DAY_MS + 1);
  await sweep(systemOf(h));
  expect(await h.ports.db.read.select().from(t.usageMeters)).toEqual([]);
});
