import { eq } from "drizzle-orm";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import type { HelloFrame } from "../../../shared/protocol/frames.ts";
import * as t from "../../db/schema/index.ts";
import { type Answer, type Harness, openHarness } from "../../testing/harness.ts";
import {
  enrolHosts,
  hostsUp,
  key32,
  makePerson,
  type Network,
  networkWithLines,
  type Person,
} from "../../testing/world.ts";
import { openConnection } from "../connections/open.ts";
import { systemContext } from "../context.ts";
import { joinHosts } from "./join.ts";
import { acknowledge, leaveHost, observe } from "./report.ts";

let h: Harness;
let support: Person;
let admin: Person;
let who: Person;
let network: Network;
let lineId: Id<"lin">;

beforeEach(async () => {
  h = await openHarness({ settings: { portQuarantineMs: 0 } });
  ({ network, who, lineId } = await networkWithLines(h, { exits: 2 }));
  admin = await makePerson(h, "admin", "admin");
  support = await makePerson(h, "support", "support");
});
afterEach(() => h.close());

// biome-ignore lint/suspicious/noExplicitAny: answers are read as a client reads them
type Body = any;
const get = async (path: string): Promise<Body> => {
  const answer: Answer<Body> = await h.request("GET", path, undefined, { headers: support.auth });
  expect([path, answer.status]).toEqual([path, 200]);
  return answer.body;
};
const logOf = async (id: string): Promise<Body[]> => (await get(`/hosts/${id}/log?limit=200`)).items;
const rowOf = async (id: Id<"hst">) => {
  const [row] = await h.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, id));
  if (row === undefined) throw new Error("no host");
  return row;
};
const forward = () => network.forwards[0] as Id<"hst">;
const link = () => systemContext(h.ports, "link");

async function join(id: Id<"hst">): Promise<number> {
  const epoch = (await rowOf(id)).epoch + 1;
  const hello: HelloFrame = {
    t: "hello",
    hostId: id,
    epoch,
    signature: "",
    version: "1.2.3",
    bootId: "b",
    capabilities: [],
    applied: null,
  };
  await joinHosts(link(), [hello]);
  return epoch;
}

test("a revision says who caused it, by what, and what changed for that host in words", async () => {
  const opened = await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const [newest] = await logOf(forward());
  expect(newest).toMatchObject({
    type: "revision",
    rev: (await rowOf(forward())).desiredRev,
    actor: who.id,
    causes: [{ action: "connection.open", subject: opened.id }],
    applied: null,
  });
  expect(newest.changes).toEqual([
    expect.stringMatching(`relay of port ${opened.port} to exit hst_.* for connection ${opened.id}`),
  ]);
  // What one transaction did is one entry, whatever it raised: the old connection ends and the new one stands.
  const before = (await logOf(forward())).length;
  const second = await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const log = await logOf(forward());
  expect(log.length).toBe(before + 1);
  expect(log[0].causes).toEqual([
    { action: "connection.close", subject: opened.id },
    { action: "connection.open", subject: second.id },
  ]);
  expect(log[0].changes).toHaveLength(2);
  expect(log[0].rev).toBe((await rowOf(forward())).desiredRev);
});

test("an exit's log has its enrolment and names the line that took it, by whichever way its revision rose", async () => {
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  const log = await logOf(line?.exitHostId ?? "");
  expect(log.filter((entry) => entry.type === "action")).toMatchObject([{ action: "host.enrol" }]);
  const words = log.flatMap((entry) => entry.changes ?? []).join("\n");
  expect(words).toContain(`taken by line ${lineId}`);
  // Every revision stands in the log: nothing raised one without saying why.
  const revs = log.filter((entry) => entry.type === "revision").map((entry) => entry.rev);
  const { desiredRev } = await rowOf(line?.exitHostId as Id<"hst">);
  expect(revs).toEqual(Array.from({ length: desiredRev }, (_, i) => desiredRev - i));
});

test("an acknowledgement settles its revision and those before it, once, with how long they took and what failed", async () => {
  await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  h.clock.advance(1_000);
  await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  h.clock.advance(500);
  const epoch = await join(forward());
  const { desiredRev } = await rowOf(forward());
  const ack = (ok: boolean) =>
    acknowledge(link(), [
      {
        hostId: forward(),
        epoch,
        rev: desiredRev,
        sha256: "0".repeat(64),
        results: [ok ? { item: "relay", ok } : { item: "relay", ok, error: "port taken" }],
      },
    ]);
  await ack(false);
  const applied = async () =>
    (await logOf(forward()))
      .filter((entry) => entry.type === "revision")
      .map((entry) => entry.applied)
      .slice(0, 2);
  const first = [
    { at: new Date(h.clock.now()).toISOString(), tookMs: 500, failed: ["relay"] },
    { at: new Date(h.clock.now()).toISOString(), tookMs: 1_500, failed: ["relay"] },
  ];
  expect(await applied()).toEqual(first);
  const failing = await get(`/hosts/${forward()}`);
  expect(failing.configuration).toMatchObject({
    failingSince: new Date(h.clock.now()).toISOString(),
    laggingSince: null,
  });
  // Failing on, it fails since the first time.
  h.clock.advance(60_000);
  await ack(false);
  expect((await get(`/hosts/${forward()}`)).configuration.failingSince).toBe(failing.configuration.failingSince);
  await ack(true);
  expect(await applied()).toEqual(first);
  expect((await get(`/hosts/${forward()}`)).configuration).toMatchObject({
    failingSince: null,
    failed: [],
    inSync: true,
  });
});

test("a host that lags shows since when, and no longer once it has applied the newest revision", async () => {
  expect((await get(`/hosts/${forward()}`)).configuration.laggingSince).toBeNull();
  const since = new Date(h.clock.now()).toISOString();
  await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  h.clock.advance(5_000);
  await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const { configuration } = await get(`/hosts/${forward()}`);
  expect(configuration).toMatchObject({ laggingSince: since, inSync: false });
  await hostsUp(h, [forward()]);
  expect((await get(`/hosts/${forward()}`)).configuration).toMatchObject({ laggingSince: null, inSync: true });
});

test("links that come and go, drift and what operators do stand between the revisions, in the order they happened", async () => {
  const id = forward();
  const epoch = await join(id);
  h.clock.advance(1_000);
  await observe(link(), id, epoch, {}, [
    { at: 0, kind: "drift_repaired", item: "relay", detail: "a mapping was gone" },
  ]);
  h.clock.advance(1_000);
  await h.request("POST", `/hosts/${id}/drain`, undefined, { headers: admin.auth });
  h.clock.advance(1_000);
  const at = h.clock.now();
  await leaveHost(link(), id, epoch, "silent");
  // A session that is no longer the newest has nothing to say.
  await leaveHost(link(), id, epoch - 1, "socket_closed");
  const log = await logOf(id);
  expect(log.slice(0, 4)).toMatchObject([
    { type: "event", kind: "link_down", detail: "silent", at: new Date(at).toISOString() },
    { type: "action", action: "host.draining", actor: admin.id },
    { type: "event", kind: "drift_repaired", item: "relay" },
    { type: "event", kind: "link_up", detail: "version 1.2.3, holds no state" },
  ]);
});

test("pages of a log, put together, are the whole log in order, each entry once", async () => {
  for (let i = 0; i < 4; i++) {
    await leaveHost(link(), forward(), await join(forward()), "silent");
    await join(forward());
    await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
    h.clock.advance(1);
  }
  const whole = await logOf(forward());
  expect(whole.length).toBeGreaterThan(12);
  const pages: Body[] = [];
  for (let cursor: string | null = ""; cursor !== null; ) {
    const { items, nextCursor }: Body = await get(`/hosts/${forward()}/log?limit=3${cursor && `&cursor=${cursor}`}`);
    pages.push(...items);
    cursor = nextCursor;
  }
  expect(pages).toEqual(whole);
  expect(whole.map((entry) => entry.at)).toEqual(
    whole
      .map((entry) => entry.at)
      .sort()
      .reverse(),
  );
});

test("the link shows since when it is up and for how long nothing was heard; a silent host is offline since then", async () => {
  const id = forward();
  await leaveHost(link(), id, (await rowOf(id)).epoch, "silent");
  h.clock.advance(10_000);
  const joinedAt = new Date(h.clock.now()).toISOString();
  await join(id);
  h.clock.advance(20_000);
  expect((await get(`/hosts/${id}`)).link).toEqual({
    online: true,
    via: null,
    since: joinedAt,
    lastSeenAt: joinedAt,
    silentMs: 20_000,
  });
  h.clock.advance(60_000);
  expect(await get(`/hosts/${id}`)).toMatchObject({
    state: "offline",
    link: { online: false, since: joinedAt, silentMs: 80_000 },
  });
});

test("the fleet list filters by role, region, state as shown, version, what lags and what fails; the counts agree", async () => {
  const [lone] = (await enrolHosts(h, "exit", 1)) as [Id<"hst">];
  await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  h.clock.advance(61_000);
  const epoch = await join(forward());
  const { desiredRev } = await rowOf(forward());
  const results = [{ item: "relay", ok: false }];
  await acknowledge(link(), [{ hostId: forward(), epoch, rev: desiredRev, sha256: "0".repeat(64), results }]);
  const ids = async (query: string) => ((await get(`/hosts?${query}`)).items as Body[]).map((host) => host.id).sort();
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  const used = line?.exitHostId as string;
  const all = [network.boarding, ...network.forwards, ...network.exits, lone].sort();
  expect(await ids("")).toEqual(all);
  expect(await ids("role=exit")).toEqual([...network.exits, lone].sort());
  expect(await ids("regionId=hk")).toEqual([forward()]);
  expect(await ids("state=online")).toEqual([forward()]);
  expect(await ids("state=offline")).toEqual(all.filter((id) => id !== forward()));
  expect(await ids("version=1.2.3")).toEqual([forward()]);
  expect(await ids("lagging=true")).toEqual([used, lone].sort());
  expect(await ids("lagging=false")).toEqual(all.filter((id) => id !== used && id !== lone));
  expect(await ids("failing=true")).toEqual([forward()]);
  expect(await ids("role=exit&lagging=true&failing=false&state=offline")).toEqual([used, lone].sort());
  const fleet = await get("/fleet");
  expect(fleet).toMatchObject({
    hosts: all.length,
    lagging: 2,
    failing: 1,
    states: { online: 1, offline: all.length - 1 },
  });
  expect(fleet.groups).toContainEqual({
    role: "forward",
    regionId: "hk",
    state: "online",
    version: "1.2.3",
    hosts: 1,
    lagging: 0,
    failing: 1,
  });
});
