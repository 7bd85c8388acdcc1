import { eq } from "drizzle-orm";
import { beforeEach, expect, test, vi } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import type { HelloFrame } from "../../../shared/protocol/frames.ts";
import { UNDERSTANDS } from "../../../shared/protocol/versions.ts";
import { FileConnection } from "../../adapters/database/file-connection.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { loadStates } from "../../link/identify.ts";
import { type Harness, makeHarness } from "../../testing/harness.ts";
import { enrolHosts, key32, networkWithLines, stockCatalogue, systemOf } from "../../testing/world.ts";
import { openConnection } from "../connections/open.ts";
import { joinHosts } from "./join.ts";
import { acknowledge, touchSeen } from "./report.ts";

let h: Harness;
let ids: Id<"hst">[];

beforeEach(async () => {
  h = await makeHarness();
  await stockCatalogue(h);
  ids = await enrolHosts(h, "exit", 3);
});

const host = (i: number) => ids[i] as Id<"hst">;
const rowOf = async (i: number) => {
  const [row] = await h.ports.db.read
    .select()
    .from(t.hosts)
    .where(eq(t.hosts.id, host(i)));
  if (row === undefined) throw new Error("no host");
  return row;
};
const eventsOf = async (i: number, kind: string) =>
  (
    await h.ports.db.read
      .select()
      .from(t.hostEvents)
      .where(eq(t.hostEvents.hostId, host(i)))
  ).filter((event) => event.kind === kind);
const hello = (i: number, epoch: number, more: Partial<HelloFrame> = {}): HelloFrame => ({
  t: "hello",
  hostId: host(i),
  epoch,
  signature: "",
  version: "1",
  bootId: "b",
  capabilities: [],
  applied: null,
  ...more,
});
const SHA = "0".repeat(64);

test("of hellos that are taken together each joins by its own epoch, and one too old says which is held and changes nothing", async () => {
  await joinHosts(systemOf(h), [hello(1, 5, { version: "5" })]);
  const answers = await joinHosts(systemOf(h), [hello(0, 1), hello(1, 5, { version: "old" }), hello(2, 7)]);
  expect(answers).toEqual([{ joined: true }, { joined: false, epoch: 5 }, { joined: true }]);
  expect(await rowOf(0)).toMatchObject({ epoch: 1, state: "online" });
  expect(await rowOf(1)).toMatchObject({ epoch: 5, version: "5" });
  expect(await rowOf(2)).toMatchObject({ epoch: 7, state: "online" });
  expect([await eventsOf(0, "link_up"), await eventsOf(1, "link_up"), await eventsOf(2, "link_up")]).toMatchObject([
    [{ detail: "version 1, holds no state" }],
    [{ detail: "version 5, holds no state" }],
    [{ detail: "version 1, holds no state" }],
  ]);
});

test("two hellos of one host that are taken together are taken in their order", async () => {
  const newer = { version: "2", understands: UNDERSTANDS };
  expect(await joinHosts(systemOf(h), [hello(0, 1), hello(1, 1), hello(0, 2, newer)])).toEqual([
    { joined: true },
    { joined: true },
    { joined: true },
  ]);
  expect(await rowOf(0)).toMatchObject({ epoch: 2, version: "2", understands: expect.stringContaining("linkWays") });
  expect(await joinHosts(systemOf(h), [hello(1, 4), hello(1, 3, newer)])).toEqual([
    { joined: true },
    { joined: false, epoch: 4 },
  ]);
  expect(await rowOf(1)).toMatchObject({ epoch: 4, version: "1", understands: null });
});

test("a host that holds more than it should is given a revision above it; others that join with it keep theirs", async () => {
  const [before, other] = [await rowOf(0), await rowOf(1)];
  const applied = { rev: before.desiredRev + 3, sha256: SHA };
  const accepted = { rev: before.desiredRev + 9, sha256: SHA };
  await joinHosts(systemOf(h), [hello(0, 1, { applied, accepted }), hello(1, 1, { applied: { rev: 0, sha256: SHA } })]);
  expect(await rowOf(0)).toMatchObject({ desiredRev: before.desiredRev + 10, appliedRev: applied.rev });
  expect(await rowOf(1)).toMatchObject({ desiredRev: other.desiredRev, appliedRev: 0 });
});

test("text of a host that no encoding holds harms neither the batch nor whoever reads it", async () => {
  const version = "1\ud800";
  await joinHosts(systemOf(h), [hello(0, 1, { version, bootId: "\udfff" }), hello(1, 1)]);
  expect(await rowOf(0)).toMatchObject({ version: "1\ufffd", bootId: "\ufffd" });
  expect(await eventsOf(0, "link_up")).toMatchObject([{ detail: "version 1\ufffd, holds no state" }]);
  const results = [{ item: "\ud800 \0 \u{1f600} \"'", ok: false, error: "\udc00" }];
  const ack = { hostId: host(0), epoch: 1, rev: 1, sha256: SHA, results };
  expect(await acknowledge(systemOf(h), [ack, { ...ack, hostId: host(1), results: [] }])).toEqual([true, true]);
  expect((await rowOf(0)).appliedResults).toEqual(results);
});

test("a session that was superseded and still talks does not make its host look alive", async () => {
  await joinHosts(systemOf(h), [hello(0, 2), hello(1, 2)]);
  const joinedAt = h.clock.now();
  h.clock.advance(60_000);
  await touchSeen(systemOf(h), [
    { id: host(0), epoch: 1 },
    { id: host(1), epoch: 2 },
  ]);
  expect((await rowOf(0)).lastSeenAt).toBe(joinedAt);
  expect((await rowOf(1)).lastSeenAt).toBe(h.clock.now());
});

test("one change raises the revision of as many hosts as depend on it, however many", async () => {
  const before = (await rowOf(0)).desiredRev;
  const others = Array.from({ length: 40_000 }, (_, i) => `hst_${String(i).padStart(26, "0")}` as Id<"hst">);
  const revs = await transaction(systemOf(h), (tx) => tx.touchHosts([...others, host(0)], "a test"));
  expect([...revs]).toEqual([[host(0), before + 1]]);
});

test("of acks that are taken together each counts by its session's epoch, and settles its host's revisions up to its own", async () => {
  await joinHosts(systemOf(h), [hello(0, 2), hello(1, 2), hello(2, 2)]);
  const revisions = async (i: number) =>
    (
      await h.ports.db.read
        .select()
        .from(t.hostRevisions)
        .where(eq(t.hostRevisions.hostId, host(i)))
    )
      .sort((a, b) => a.rev - b.rev)
      .map(({ appliedAt, failed }) => [appliedAt !== null, failed]);
  expect((await revisions(0)).length).toBeGreaterThan(1);
  const { desiredRev: rev } = await rowOf(0);
  const failing = [
    { item: "tunnel", ok: false },
    { item: "whitelist", ok: true },
  ];
  const ack = { epoch: 2, sha256: SHA, results: [] };
  expect(
    await acknowledge(systemOf(h), [
      { ...ack, hostId: host(0), rev: rev - 1, results: failing },
      { ...ack, hostId: host(1), rev, epoch: 1 },
      { ...ack, hostId: host(2), rev },
      { ...ack, hostId: host(0), rev },
    ]),
  ).toEqual([true, false, true, true]);
  expect(await rowOf(0)).toMatchObject({ appliedRev: rev, appliedResults: [], failingSince: null });
  expect(await rowOf(1)).toMatchObject({ appliedRev: null, appliedAt: null });
  expect(await rowOf(2)).toMatchObject({ appliedRev: rev, appliedResults: [] });
  const settled = (await revisions(0)).map(([applied]) => applied);
  expect(settled).toEqual(settled.map(() => true));
  expect((await revisions(0)).at(0)).toEqual([true, ["tunnel"]]);
  expect((await revisions(0)).at(-1)).toEqual([true, []]);
  expect((await revisions(1)).every(([applied]) => !applied)).toBe(true);
});

test("items that fail are failing since the first ack that named any, until one names none", async () => {
  await joinHosts(systemOf(h), [hello(0, 1)]);
  const ack = { hostId: host(0), epoch: 1, rev: 1, sha256: SHA };
  const since = async (ok: boolean) => {
    h.clock.advance(1000);
    await acknowledge(systemOf(h), [{ ...ack, results: [{ item: "tunnel", ok }] }]);
    return (await rowOf(0)).failingSince;
  };
  const first = await since(false);
  expect(first).toBe(h.clock.now());
  expect(await since(false)).toBe(first);
  expect(await since(true)).toBeNull();
});

test("what is done for many hosts together asks the database no more often than for one: a server's round trips are the same", async () => {
  const { network, who, lineIds } = await networkWithLines(h, { forwards: 3, exits: 9, lines: 10 });
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ privateNetwork: "net", privateAddress: "10.0.0.1" }));
  for (const lineId of lineIds) await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const exits = (await h.ports.db.read.select().from(t.lines)).map((line) => line.exitHostId as Id<"hst">);
  const [forward] = network.forwards as [Id<"hst">];
  const execute = vi.spyOn(FileConnection.prototype, "execute");
  const asked = async (work: () => Promise<unknown>) => {
    execute.mockClear();
    await work();
    return execute.mock.calls.length;
  };
  let epoch = 0;
  // One of each role at first: each holds something.
  const one = [network.boarding, forward, ...exits.slice(0, 1)];
  const all = [network.boarding, ...network.forwards, ...exits];
  const counts = [];
  for (const hosts of [one, all]) {
    epoch++;
    const hellos = hosts.map((hostId): HelloFrame => ({ ...hello(0, epoch), hostId, understands: UNDERSTANDS }));
    const acks = hosts.map((hostId) => ({ hostId, epoch, rev: 1, sha256: SHA, results: [] }));
    counts.push([
      await asked(() => joinHosts(systemOf(h), hellos)),
      await asked(() => acknowledge(systemOf(h), acks)),
      await asked(() => loadStates(systemOf(h), hosts, async () => {})),
    ]);
  }
  execute.mockRestore();
  expect(counts[1]).toEqual(counts[0]);
  expect(Math.max(...(counts[0] ?? []))).toBeLessThan(16);
});
