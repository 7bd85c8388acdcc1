import { eq, inArray } from "drizzle-orm";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, openHarness } from "../../testing/harness.ts";
import {
  buyLines,
  enrolHosts,
  hostsUp,
  key32,
  makePerson,
  type Network,
  networkWithLines,
  type Person,
  systemOf,
} from "../../testing/world.ts";
import { deleteAccountWhitelist, putAccountWhitelist } from "../accounts/whitelist.ts";
import { openConnection } from "../connections/open.ts";
import { desiredState } from "./desired-state.ts";
import { drainHost, resumeHost, retireHost } from "./life.ts";
import { replaceHost } from "./replace.ts";
import { updateHost } from "./update.ts";

let h: Harness;
let network: Network;
let who: Person;
let lineId: Id<"lin">;

beforeEach(async () => {
  h = await openHarness({ settings: { portQuarantineMs: 0 } });
  ({ network, who, lineId } = await networkWithLines(h, { exits: 2 }));
});
afterEach(() => h.close());

const open = () => openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
const stateOf = async (id: Id<"hst">) => (await desiredState(h.ports.db.read, id))?.items ?? [];
const first = (ids: readonly Id<"hst">[]) => ids[0] as Id<"hst">;
async function exitOf(): Promise<Id<"hst">> {
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  return line?.exitHostId as Id<"hst">;
}

test("a draining forward host takes no new connections and keeps the old one; taken back, it serves again", async () => {
  const forward = first(network.forwards);
  const old = await open();
  await drainHost(systemOf(h), forward);
  expect(JSON.stringify(await stateOf(forward))).toContain(old.id);
  // Refused, and the line's connection is not lost over it.
  await expect(open()).rejects.toMatchObject({ code: "no_forward_host" });
  expect(JSON.stringify(await stateOf(forward))).toContain(old.id);
  await expect(drainHost(systemOf(h), forward)).rejects.toMatchObject({ code: "conflict" });
  await resumeHost(systemOf(h), forward);
  expect((await open()).state).toBe("active");
});

test("a host that is needed can't be retired; one that is not is told to hold nothing", async () => {
  await open();
  for (const id of [network.boarding, first(network.forwards), await exitOf()])
    await expect(retireHost(systemOf(h), id)).rejects.toMatchObject({ code: "conflict" });
  const used = await exitOf();
  const free = network.exits.find((id) => id !== used) as Id<"hst">;
  await retireHost(systemOf(h), free);
  expect(await stateOf(free)).toEqual([]);
  await expect(retireHost(systemOf(h), free)).rejects.toMatchObject({ code: "conflict" });
});

test("a forward host's connections go on through the machine that replaces it, on the same ports", async () => {
  const connection = await open();
  const old = first(network.forwards);
  const [by] = await enrolHosts(h, "forward", 1);
  await hostsUp(h);
  await replaceHost(systemOf(h), old, { byHostId: by as Id<"hst"> });
  expect(await stateOf(old)).toEqual([]);
  const relays = (await stateOf(by as Id<"hst">)).filter((item) => item.type === "relay");
  const [row] = await h.ports.db.read.select().from(t.connections).where(eq(t.connections.id, connection.id));
  // What is awaited of the new host is a revision of its own.
  expect(row?.forwardRev).toBe((await desiredState(h.ports.db.read, by as Id<"hst">))?.rev);
  expect(relays).toMatchObject([{ id: connection.id, listen: { from: connection.port, to: connection.port } }]);
  const [host] = await h.ports.db.read
    .select()
    .from(t.hosts)
    .where(eq(t.hosts.id, by as Id<"hst">));
  expect(await stateOf(network.boarding)).toMatchObject([{ type: "relay", to: { address: host?.publicAddress } }]);
});

test("an exit's line moves to the machine that replaces it, with its address; its connection ends", async () => {
  await open();
  const old = await exitOf();
  const [by] = await enrolHosts(h, "exit", 1);
  await hostsUp(h);
  await replaceHost(systemOf(h), old, { byHostId: by as Id<"hst"> });
  const [host] = await h.ports.db.read
    .select()
    .from(t.hosts)
    .where(eq(t.hosts.id, by as Id<"hst">));
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  expect(line).toMatchObject({ state: "active", exitHostId: by, eip: host?.publicAddress });
  expect(await stateOf(old)).toEqual([]);
  const { configuration } = (await open()) as { configuration: { serverPublicKey: string } };
  expect(configuration.serverPublicKey).toBe(host?.wireguardPublicKey);
});

test("an exit installed anew takes over on its own address: no line's address changes, and no two exits hold it", async () => {
  await open();
  const old = await exitOf();
  const [by] = (await enrolHosts(h, "exit", 1)) as [Id<"hst">];
  await hostsUp(h);
  const rows = () =>
    h.ports.db.read
      .select()
      .from(t.hosts)
      .where(inArray(t.hosts.id, [old, by]));
  const addressOf = async (id: Id<"hst">) => (await rows()).find((row) => row.id === id)?.publicAddress;
  const eip = await addressOf(old);
  const replace = (keepAddress: boolean) => replaceHost(systemOf(h), old, { byHostId: by, keepAddress });
  await expect(replace(true)).rejects.toMatchObject({ code: "conflict" });
  await updateHost(systemOf(h), by, { publicAddress: null });
  await expect(replace(false)).rejects.toMatchObject({ code: "conflict" });
  expect(await replace(true)).toMatchObject({ id: by, publicAddress: eip });
  expect(await addressOf(by)).toBe(eip);
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  expect(line).toMatchObject({ state: "active", exitHostId: by, eip });
});

test("a host in use, of another role or not let in can't take over", async () => {
  const old = await exitOf();
  const other = network.exits.find((id) => id !== old) as Id<"hst">;
  await buyLines(h, who);
  for (const byHostId of [other, old, network.boarding])
    await expect(replaceHost(systemOf(h), old, { byHostId })).rejects.toMatchObject({
      code: "conflict",
    });
});

test("an account's own whitelist replaces that of its lines' service types, and gives it back when taken away", async () => {
  const cidrs = async () => (await stateOf(await exitOf())).flatMap((i) => (i.type === "whitelist" ? i.cidrs : []));
  const before = await cidrs();
  await putAccountWhitelist(systemOf(h), who.id, { cidrs: ["198.51.100.0/24"], domains: [] });
  expect(await cidrs()).toEqual(["198.51.100.0/24"]);
  await deleteAccountWhitelist(systemOf(h), who.id);
  expect(await cidrs()).toEqual(before);
  await expect(deleteAccountWhitelist(systemOf(h), who.id)).rejects.toMatchObject({ code: "not_found" });
});

test("names go to the exit in one form, each once, whichever way they were typed", async () => {
  const body = { name: "TK", cidrs: [], domains: ["Example.COM.", "*.example.com", "example.com"] };
  const admin = await makePerson(h, "admin", "admin");
  const answer = await h.request("PUT", "/service-types/TK-1", body, { headers: admin.auth });
  expect([answer.status, answer.body]).toMatchObject([
    200,
    { domains: ["example.com", "*.example.com", "example.com"] },
  ]);
  const domains = (await stateOf(await exitOf())).flatMap((i) => (i.type === "whitelist" ? i.domains : []));
  expect(domains).toEqual(["*.example.com", "example.com"]);
});
