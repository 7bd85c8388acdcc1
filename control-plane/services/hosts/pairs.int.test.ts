import { eq } from "drizzle-orm";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import { UNDERSTANDS } from "../../../shared/protocol/versions.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, openHarness } from "../../testing/harness.ts";
import {
  enrolHosts,
  hostsUp,
  key32,
  makePerson,
  type Network,
  networkWithLines,
  type Person,
  systemOf,
} from "../../testing/world.ts";
import { openConnection } from "../connections/open.ts";
import { desiredState } from "./desired-state.ts";
import { retireHost } from "./life.ts";
import { createPair, deletePair, listPairs, MOST_PORTS, updatePair } from "./pairs.ts";
import { getHost } from "./read.ts";
import { replaceHost } from "./replace.ts";
import { updateHost } from "./update.ts";

let h: Harness;
let who: Person;
let network: Network;
let lineIds: Id<"lin">[];

beforeEach(async () => {
  h = await openHarness({ settings: { portQuarantineMs: 0 } });
  ({ network, who, lineIds } = await networkWithLines(h, { exits: 3, lines: 2 }));
});
afterEach(() => h.close());

const open = (n = 0) => openConnection(who.ctx, { lineId: lineIds[n] as Id<"lin">, clientPublicKey: key32(h) }, 0);
const forward = () => network.forwards[0] as Id<"hst">;
const pairId = async () => (await listPairs(systemOf(h))).items[0]?.id as Id<"par">;
const ranges = async () =>
  ((await desiredState(h.ports.db.read, network.boarding))?.items ?? []).map((item) =>
    item.type === "relay" ? [item.listen.from, item.listen.to] : item.type,
  );
const code = (work: Promise<unknown>) =>
  work.then(
    () => "done",
    (error: { code?: string }) => error.code,
  );

test("a pair's range changes as long as connections in use stay within it, and the boarding host relays the new one", async () => {
  const id = await pairId();
  const connection = await open();
  expect(connection.port).toBe(30_000);
  expect(await code(updatePair(systemOf(h), id, { startPort: 30_001 }))).toBe("pair_in_use");
  await updatePair(systemOf(h), id, { maxLoad: 1 });
  expect(await ranges()).toEqual([[30_000, 30_000]]);
  await hostsUp(h);
  expect(await code(open(1))).toBe("lines_busy");
  await updatePair(systemOf(h), id, { startPort: 29_990, maxLoad: 100, boardingAddress: "192.0.2.77" });
  expect(await ranges()).toEqual([[29_990, 30_089]]);
  await hostsUp(h);
  const second = (await open(1)) as { configuration: { endpoint: string } };
  expect(second.configuration.endpoint).toMatch(/^192\.0\.2\.77:/);
  expect(await code(updatePair(systemOf(h), id, { startPort: 65_000, maxLoad: 1000 }))).toBe("validation_failed");
});

test("a pair that connections use can't be taken apart; one that none uses can, and its range is free again", async () => {
  const id = await pairId();
  const { id: connectionId } = await open();
  expect(await code(deletePair(systemOf(h), id))).toBe("pair_in_use");
  await h.ports.db.write((tx) =>
    tx.update(t.connections).set({ state: "closed" }).where(eq(t.connections.id, connectionId)),
  );
  const again = { boardingHostId: network.boarding, forwardHostId: forward(), startPort: 30_040, maxLoad: 20 };
  expect(await code(createPair(systemOf(h), again))).toBe("pair_overlaps");
  await deletePair(systemOf(h), id);
  expect(await ranges()).toEqual([]);
  expect(await code(open())).toBe("no_forward_host");
  expect([await code(deletePair(systemOf(h), id)), await code(updatePair(systemOf(h), id, { maxLoad: 2 }))]).toEqual([
    "not_found",
    "not_found",
  ]);
  await createPair(systemOf(h), again);
  await hostsUp(h);
  expect((await open()).port).toBe(30_040);
});

test("a deleted pair is no way to the control plane: the boarding host names none, and the forward host lets it in no more", async () => {
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ understands: JSON.stringify(UNDERSTANDS) }));
  const held = async (id: Id<"hst">, type: string) =>
    (await desiredState(h.ports.db.read, id))?.items.filter((item) => item.type === type) ?? [];
  expect(await held(network.boarding, "linkWays")).toMatchObject([{ via: [{ hostId: forward() }] }]);
  expect(await held(forward(), "linkProxy")).toHaveLength(1);
  const revs = async () => [await getHost(systemOf(h), network.boarding), await getHost(systemOf(h), forward())];
  const before = (await revs()).map((host) => host.configuration.desiredRev);
  await deletePair(systemOf(h), await pairId());
  expect(await held(network.boarding, "linkWays")).toEqual([]);
  expect(await held(forward(), "linkProxy")).toEqual([]);
  for (const [n, host] of (await revs()).entries())
    expect(host.configuration.desiredRev).toBeGreaterThan(before[n] ?? Number.NaN);
});

test("a retired forward host gives its range on the boarding host back", async () => {
  const [other] = (await enrolHosts(h, "forward", 1)) as [Id<"hst">];
  await retireHost(systemOf(h), forward());
  expect((await listPairs(systemOf(h))).items).toEqual([]);
  await createPair(systemOf(h), {
    boardingHostId: network.boarding,
    forwardHostId: other,
    startPort: 30_000,
    maxLoad: 50,
  });
  await hostsUp(h);
  expect((await open()).state).toBe("active");
  expect(
    await code(
      createPair(systemOf(h), {
        boardingHostId: network.boarding,
        forwardHostId: forward(),
        startPort: 40_000,
        maxLoad: 1,
      }),
    ),
  ).toBe("not_found");
});

test("a forward host gets no more ports than its state holds, over all its pairs", async () => {
  const [second] = (await enrolHosts(h, "boarding", 1)) as [Id<"hst">];
  const pair = (maxLoad: number, startPort: number) =>
    createPair(systemOf(h), { boardingHostId: second, forwardHostId: forward(), startPort, maxLoad });
  expect(await code(pair(MOST_PORTS - 49, 30_000))).toBe("forward_full");
  const { id } = await pair(MOST_PORTS - 50, 30_000);
  expect(await code(pair(1, 60_000))).toBe("forward_full");
  expect(await code(updatePair(systemOf(h), id, { maxLoad: MOST_PORTS - 49 }))).toBe("forward_full");
  await updatePair(systemOf(h), id, { maxLoad: MOST_PORTS - 51 });
  await pair(1, 60_000);
});

test("a host's capacity bounds its connections, of a forward and of a boarding host; the view shows use against it", async () => {
  for (const limited of [forward(), network.boarding]) {
    await updateHost(systemOf(h), limited, { capacity: 1 });
    await hostsUp(h);
    await open();
    expect(await code(open(1))).toBe("lines_busy");
    // The line that has the place may have it again.
    await open();
    expect((await getHost(systemOf(h), limited)).capacity).toEqual({ limit: 1, most: 1, used: 1 });
    await updateHost(systemOf(h), limited, { capacity: null });
    await hostsUp(h);
    expect((await open(1)).state).toBe("active");
    expect((await getHost(systemOf(h), limited)).capacity).toEqual({ limit: null, most: 50, used: 2 });
    await h.ports.db.write((tx) => tx.update(t.connections).set({ state: "closed" }));
  }
  const [line] = await h.ports.db.read.select().from(t.lines);
  expect((await getHost(systemOf(h), line?.exitHostId as Id<"hst">)).capacity).toEqual({
    limit: null,
    most: 1,
    used: 1,
  });
});

test("no two exits hold one public address; a retired one's may be given to another", async () => {
  const [a, b] = network.exits as [Id<"hst">, Id<"hst">];
  const addressOf = async (id: Id<"hst">) => (await getHost(systemOf(h), id)).publicAddress;
  const address = (await addressOf(a)) ?? "";
  expect(await code(updateHost(systemOf(h), b, { publicAddress: address }))).toBe("address_taken");
  expect(await addressOf(b)).not.toBe(address);
  // Hosts of other roles may share one: a boarding host's addresses are many lines'.
  await updateHost(systemOf(h), network.boarding, { publicAddress: address });
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ state: "retired" }).where(eq(t.hosts.id, a)));
  await updateHost(systemOf(h), b, { publicAddress: address });
});

test("a host is replaced by one of its own region only", async () => {
  const [line] = await h.ports.db.read.select().from(t.lines);
  const [by] = (await enrolHosts(h, "exit", 1)) as [Id<"hst">];
  await hostsUp(h);
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ regionId: "hk" }).where(eq(t.hosts.id, by)));
  const old = line?.exitHostId as Id<"hst">;
  expect(await code(replaceHost(systemOf(h), old, { byHostId: by }))).toBe("conflict");
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ regionId: "uae-dubai" }).where(eq(t.hosts.id, by)));
  await replaceHost(systemOf(h), old, { byHostId: by });
});

test("an operator sees every port of a host", async () => {
  const admin = await makePerson(h, "admin", "admin");
  const answer = await h.request("GET", `/hosts/${forward()}`, undefined, { headers: admin.auth });
  expect(answer.body).toMatchObject({ wireguardPort: 51_820, uplinkPort: 51_821 });
});
