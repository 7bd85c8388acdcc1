import { eq } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
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

let h: Harness;
let support: Person;
let who: Person;
let network: Network;
let lineId: Id<"lin">;
let exit: Id<"hst">;

beforeAll(async () => {
  h = await openHarness({ settings: { portQuarantineMs: 0 } });
  ({ network, who, lineId } = await networkWithLines(h));
  support = await makePerson(h, "support", "support");
  exit = network.exits[0] as Id<"hst">;
});
afterAll(() => h?.close());

const get = (path: string, who = support) =>
  // biome-ignore lint/suspicious/noExplicitAny: answers are read as a client reads them
  h.request<any>("GET", path, undefined, { headers: who.auth });
const diagnosis = async () => (await get(`/lines/${lineId}/diagnosis`)).body;
const codes = async () => (await diagnosis()).findings.map((f: { code: string }) => f.code);
const tell = async (id: Id<"hst">, values: Observation) => {
  const [host] = await h.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, id));
  await observe(systemOf(h), id, host?.epoch ?? 0, values, []);
};

test("one answer follows a line from no connection to a client that works, host by host", async () => {
  const forward = network.forwards[0] as Id<"hst">;
  expect(await codes()).toEqual(["no_connection"]);
  const opened = await openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const pending = await diagnosis();
  expect(pending.findings).toMatchObject([
    { severity: "error", code: "configuration_lagging", hostId: forward },
    { severity: "error", code: "configuration_lagging", hostId: exit },
  ]);
  expect(
    pending.hops.map((hop: { role: string; holdsConnection: boolean }) => [hop.role, hop.holdsConnection]),
  ).toEqual([
    ["boarding", true],
    ["forward", false],
    ["exit", false],
  ]);
  await hostsUp(h);
  expect(await codes()).toEqual([]);

  h.clock.advance(30_000);
  await tell(forward, { relays: [{ item: opened.id, flows: 0, bytes: 0 }] });
  const peer = { publicKey: opened.clientPublicKey, endpoint: null, lastHandshakeAt: null, rxBytes: 0, txBytes: 0 };
  await tell(exit, { wireguard: [{ interface: "tl0", peers: [peer] }] });
  expect(await codes()).toEqual(["no_packets"]);
  await tell(forward, { relays: [{ item: opened.id, flows: 1, bytes: 148 }] });
  expect(await codes()).toEqual(["no_handshake"]);
  const lastHandshakeAt = h.clock.now();
  await tell(exit, {
    wireguard: [{ interface: "tl0", peers: [{ ...peer, lastHandshakeAt, rxBytes: 100, txBytes: 200 }] }],
    whitelist: [{ item: "whitelist", deniedPackets: 4, entries: 1, addresses: 2, deniedNames: 1 }],
  });
  h.clock.advance(5_000);
  const works = await diagnosis();
  expect(works).toMatchObject({
    findings: [{ severity: "info", code: "whitelist_denials" }],
    connection: { id: opened.id, state: "active" },
    client: { handshakeAgeMs: 5_000, rxBytes: 100, txBytes: 200 },
    relay: { flows: 1, bytes: 148 },
    whitelist: { entries: 3, deniedPackets: 4, deniedNames: 1 },
    hops: [
      { role: "boarding", hostId: network.boarding, link: { online: true }, holdsConnection: true },
      { role: "forward", hostId: forward, configuration: { inSync: true }, holdsConnection: true },
      { role: "exit", hostId: exit, link: { silentMs: 5_000 } },
    ],
  });
  // A failed item of the line's own is named; another line's on the same forward host would not be.
  const failed = [
    { item: "con_other", ok: false },
    { item: opened.id, ok: false, error: "no such map" },
  ];
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ appliedResults: failed }).where(eq(t.hosts.id, forward)));
  const broken = await diagnosis();
  expect(broken.findings[0]).toMatchObject({ code: "configuration_failed", hostId: forward });
  expect(broken.findings.filter((f: { code: string }) => f.code === "configuration_failed")).toHaveLength(1);
  expect(broken.hops[1].holdsConnection).toBe(false);
});

test("support reads any customer's connections and what their clients were told, and can neither open nor close them", async () => {
  const { items } = (await get(`/lines/${lineId}/connections`)).body;
  const id = items[0].id;
  expect((await get(`/connections/${id}`)).body).toMatchObject({ id, lineId });
  for (const form of ["", ".conf", ".svg"])
    expect((await get(`/connections/${id}/configuration${form}`)).status).toBe(200);
  expect((await get(`/connections/${id}/configuration`)).body).not.toHaveProperty("privateKey");
  const refused = await h.request("DELETE", `/connections/${id}`, undefined, { headers: support.auth });
  expect([refused.status, refused.body.code]).toEqual([403, "forbidden"]);
  expect((await get(`/lines/${lineId}/diagnosis`, who)).status).toBe(403);
});
