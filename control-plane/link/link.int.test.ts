import { eq } from "drizzle-orm";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { toBase64 } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import type { HostRole } from "../../shared/protocol/enrolment.ts";
import * as t from "../db/schema/index.ts";
import type { Embedded } from "../entry/embedded.ts";
import { systemContext } from "../services/context.ts";
import { acknowledge, observe } from "../services/hosts/report.ts";
import { type Client, signedIn, startOn, temporaryDirectory } from "../testing/embedded.ts";
import { FakeAgent, FakeLink } from "../testing/fake-agent.ts";
import { PRICE_ID, SERVICE_TYPE } from "../testing/world.ts";

const REGION: Record<HostRole, string> = { boarding: "cn-guangzhou", forward: "hk", exit: "uae-dubai" };

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let server: Embedded;
let admin: Client;
let customer: Client;
let boarding: FakeAgent;
let forwards: FakeAgent[];
let exit: FakeAgent;
let lineId: Id<"lin">;

async function ok<T>(answer: Promise<{ status: number; text: string; body: T }>): Promise<T> {
  const { status, text, body } = await answer;
  if (status >= 300) throw new Error(`${status} ${text}`);
  return body;
}

/** A host of that role: enrolled, approved, with a public address. Not linked yet. */
async function enrolled(role: HostRole, approve = true): Promise<FakeAgent> {
  const { token } = await ok(admin<{ token: string }>("POST", "/enrolment-tokens", { role, regionId: REGION[role] }));
  const agent = new FakeAgent(role);
  await agent.enrol(server.url, token);
  if (approve) await ok(admin("POST", `/hosts/${agent.hostId}/approve`));
  const [byte = 0, other = 0] = server.ports.random.bytes(2);
  await ok(admin("PATCH", `/hosts/${agent.hostId}`, { publicAddress: `198.51.${byte}.${other}` }));
  return agent;
}

async function rowOf(agent: FakeAgent) {
  const [row] = await server.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, agent.hostId));
  if (row === undefined) throw new Error("no host");
  return row;
}

const inSync = async (agent: FakeAgent) => {
  const { desiredRev, appliedRev } = await rowOf(agent);
  return desiredRev === appliedRev;
};
const until = <T>(what: () => Promise<T>) => vi.waitFor(what, { timeout: 10_000, interval: 10 });

beforeAll(async () => {
  directory = await temporaryDirectory();
  server = await startOn(directory.path);
  if (server.admin === undefined) throw new Error("no administrator");
  admin = await signedIn(server.url, server.admin.name, server.admin.password);
  for (const [id, body] of [
    ["cn-guangzhou", { name: "Guangzhou" }],
    ["hk", { name: "Hong Kong" }],
    ["uae-dubai", { name: "Dubai", sourceRegionId: "cn-guangzhou" }],
  ] as const)
    await ok(admin("PUT", `/regions/${id}`, body));
  await ok(admin("PUT", "/products/path-golden", { name: "Golden", lineType: "golden" }));
  await ok(admin("PUT", `/${PRICE_ID}/price`, { monthlyFen: 1000 }));
  await ok(admin("PUT", `/service-types/${SERVICE_TYPE}`, { name: "TK", cidrs: ["203.0.113.0/24"] }));

  boarding = await enrolled("boarding");
  forwards = [await enrolled("forward"), await enrolled("forward")];
  exit = await enrolled("exit");
  for (const [i, forward] of forwards.entries())
    await ok(
      admin("POST", "/pairs", {
        boardingHostId: boarding.hostId,
        forwardHostId: forward.hostId,
        startPort: 30_000 + 100 * i,
        maxLoad: 100,
      }),
    );
  for (const agent of [boarding, ...forwards, exit]) await agent.join(server.url);

  const password = "a good password";
  const user = await ok(admin<{ id: string }>("POST", "/users", { name: "customer", password }));
  await ok(admin("POST", `/users/${user.id}/certification`, { state: "passed", reason: "papers" }));
  await ok(admin("POST", `/users/${user.id}/credits`, { amountFen: 100_000, reason: "test" }));
  customer = await signedIn(server.url, "customer", password);
  const quote = await ok(
    customer<{ id: string }>("POST", "/quotes", { priceId: PRICE_ID, chargeType: "month", periods: 1 }),
  );
  const order = await ok(
    customer<{ id: string }>("POST", "/orders", { quoteId: quote.id, serviceTypeIds: [SERVICE_TYPE] }),
  );
  await ok(customer("POST", `/orders/${order.id}/pay`, { channel: "balance" }));
  await until(async () =>
    expect((await ok(customer<{ state: string }>("GET", `/orders/${order.id}`))).state).toBe("completed"),
  );
  const { items } = await ok(customer<{ items: { id: Id<"lin"> }[] }>("GET", "/lines"));
  lineId = items[0]?.id ?? "lin_";
});

afterAll(async () => {
  await server?.stop();
  await directory?.remove();
});

const newKey = () => toBase64(server.ports.random.bytes(32)).replace(/.=$/, "A=");

type Opened = {
  id: string;
  port: number;
  ready: { forward: boolean; exit: boolean };
  clientPublicKey: string;
  state: string;
};

function open(waitMs: number, clientPublicKey = newKey()) {
  return ok(customer<Opened>("POST", `/connections?waitMs=${waitMs}`, { lineId, clientPublicKey }));
}

/** The state a link got that lets this client in. */
const peerState = (key: string) => (state: { items: { type: string }[] | null }) =>
  JSON.stringify(state.items ?? []).includes(key);

test("a host joins: welcome, then a state signed for it by the pinned key; its ack shows as in sync", async () => {
  const [welcome] = exit.link.of("welcome");
  expect(welcome).toMatchObject({ heartbeatMs: 15_000, silenceMs: 40_000 });
  const states = exit.link.of("state");
  expect(states.length).toBeGreaterThan(0);
  for (const state of states) expect(exit.trusts(state)).toBe(true);
  expect(boarding.trusts(states[0] as (typeof states)[number])).toBe(false);
  await until(async () => expect(await inSync(exit)).toBe(true));
  const shown = await ok(admin<{ link: unknown; configuration: unknown }>("GET", `/hosts/${exit.hostId}`));
  expect(shown).toMatchObject({ state: "online", link: { online: true }, configuration: { inSync: true, failed: [] } });
});

test("an open that waits is answered when both hosts have acknowledged it, and not before", async () => {
  exit.autoAck = false;
  const key = newKey();
  let answered = false;
  const opening = open(20_000, key).finally(() => {
    answered = true;
  });
  const state = await exit.link.next("state", peerState(key));
  const forward = await until(async () => {
    const [active] = await server.ports.db.read
      .select()
      .from(t.connections)
      .where(eq(t.connections.clientPublicKey, key));
    const agent = forwards.find((one) => one.hostId === active?.forwardHostId);
    expect(agent !== undefined && (await inSync(agent))).toBe(true);
    return agent as FakeAgent;
  });
  // The forward host has it, the exit has not said so: no answer yet, also not after another round trip.
  expect((await admin("GET", "/healthz")).status).toBe(200);
  expect(answered).toBe(false);
  exit.link.ack(state);
  const opened = await opening;
  exit.autoAck = true;
  expect(opened.ready).toEqual({ forward: true, exit: true });
  const relays = JSON.stringify(forward.link.of("state").at(-1)?.items);
  expect(relays).toContain(opened.id);
});

test("an open that does not wait says at once that nothing is verified yet", async () => {
  exit.autoAck = false;
  const opened = await open(0);
  expect(opened.ready.exit).toBe(false);
  exit.autoAck = true;
  exit.link.ack(await exit.link.next("state", peerState(opened.clientPublicKey)));
  await until(async () => expect(await inSync(exit)).toBe(true));
});

test("a connection whose item failed on the exit is not ready, and the host shows the failure", async () => {
  exit.autoAck = false;
  const key = newKey();
  const opening = open(2_000, key);
  const state = await exit.link.next("state", peerState(key));
  exit.link.ack(state, [
    { item: "tunnel", ok: false, error: "wg: no such device" },
    { item: "whitelist", ok: true },
  ]);
  expect((await opening).ready).toEqual({ forward: true, exit: false });
  const shown = await ok(admin<{ configuration: { failed: unknown[] } }>("GET", `/hosts/${exit.hostId}`));
  expect(shown.configuration).toMatchObject({
    inSync: false,
    failed: [{ item: "tunnel", error: "wg: no such device" }],
  });
  exit.link.ack(state);
  exit.autoAck = true;
  await until(async () => expect(await inSync(exit)).toBe(true));
});

test("a forward host that never acknowledges is replaced by another within the time to wait", async () => {
  // The least loaded is taken: with nothing open, the pair made first.
  const { items } = await ok(
    customer<{ items: { id: string; state: string }[] }>("GET", `/lines/${lineId}/connections`),
  );
  for (const { id } of items.filter((c) => c.state === "active"))
    await ok(customer("DELETE", `/connections/${id}?waitMs=5000`));
  const [silent, good] = forwards as [FakeAgent, FakeAgent];
  silent.autoAck = false;
  const key = newKey();
  const opened = await open(4_000, key);
  expect(opened.ready).toEqual({ forward: true, exit: true });
  const rows = await server.ports.db.read.select().from(t.connections).where(eq(t.connections.clientPublicKey, key));
  const by = Object.fromEntries(rows.map((row) => [row.forwardHostId, [row.state, row.closeReason]]));
  expect(by).toEqual({ [silent.hostId]: ["closed", "forward_silent"], [good.hostId]: ["active", null] });
  silent.autoAck = true;
  // What it was sent first is acknowledged late, and it follows up to the newest.
  silent.link.ack(silent.link.of("state").at(-1) ?? { rev: 0, sha256: "" });
  await until(async () => expect(await inSync(silent)).toBe(true));
});

test("a close that waits is answered when both hosts have dropped it", async () => {
  const opened = await open(5_000);
  const closed = await ok(customer<Opened>("DELETE", `/connections/${opened.id}?waitMs=5000`));
  expect(closed).toMatchObject({ state: "closed", ready: { forward: true, exit: true } });
  expect(JSON.stringify(exit.link.of("state").at(-1)?.items)).not.toContain(opened.clientPublicKey);
});

test("a hello signed by another key is refused, and changes nothing of the host", async () => {
  const agent = await enrolled("forward");
  const before = await rowOf(agent);
  const link = agent.dial(server.url, { signer: exit });
  expect(await link.next("bye")).toMatchObject({ reason: "refused" });
  expect((await link.gone()).code).toBe(1008);
  expect(link.of("welcome")).toEqual([]);
  expect(await rowOf(agent)).toEqual(before);
});

test("a host that is unknown is refused like one with a wrong key", async () => {
  const agent = new FakeAgent("exit");
  agent.hostId = `hst_${"0".repeat(26)}`;
  expect(await agent.dial(server.url).next("bye")).toMatchObject({ reason: "refused" });
});

test("an epoch that is not newer is refused, with the epoch held, also when it is the same", async () => {
  const agent = await enrolled("forward");
  agent.epoch = 6;
  const link = await agent.join(server.url);
  for (const epoch of [7, 3]) {
    const stale = agent.dial(server.url, { epoch });
    expect(await stale.next("bye")).toMatchObject({ reason: "stale_epoch", epoch: 7 });
    await stale.gone();
  }
  expect(link.closed).toBeUndefined();
  expect((await rowOf(agent)).epoch).toBe(7);
});

test("a second session of a host ends the first, whose acks and reports count no more", async () => {
  const agent = await enrolled("forward");
  agent.autoAck = false;
  const first = await agent.join(server.url);
  const second = await agent.join(server.url);
  expect(await first.next("bye")).toMatchObject({ reason: "superseded" });
  await first.gone();
  const [state] = first.of("state");
  const ack = { rev: state?.rev ?? 0, sha256: state?.sha256 ?? "", results: [] };
  first.ack(ack);
  // The first may be held by another process, which knows nothing of the second: the database refuses by epoch.
  const ctx = systemContext(server.ports, "test");
  expect(await acknowledge(ctx, [{ hostId: agent.hostId, epoch: agent.epoch - 1, ...ack }])).toEqual([false]);
  expect(await observe(ctx, agent.hostId, agent.epoch - 1, { load1: 99 }, [])).toBe(false);
  expect(await rowOf(agent)).toMatchObject({ appliedRev: null, observed: null, state: "online" });
  second.ack(ack);
  await until(async () => expect((await rowOf(agent)).appliedRev).toBe(ack.rev));
  // The first one's end does not show the host as gone.
  expect(second.closed).toBeUndefined();
  expect((await rowOf(agent)).state).toBe("online");
});

test("an ack or a report reaches no other host, whatever it says", async () => {
  const liar = await enrolled("forward");
  const victim = await enrolled("forward");
  liar.autoAck = false;
  victim.autoAck = false;
  const link = await liar.join(server.url);
  await victim.join(server.url);
  const before = await rowOf(victim);
  const [state] = link.of("state");
  link.send({ t: "ack", hostId: victim.hostId, rev: state?.rev, sha256: state?.sha256, results: [] });
  link.send({
    t: "observe",
    hostId: victim.hostId,
    at: 1,
    values: { load1: 7 },
    events: [{ at: 1, kind: "apply_failed", detail: victim.hostId }],
  });
  await until(async () => expect(await rowOf(liar)).toMatchObject({ appliedRev: state?.rev, observed: { load1: 7 } }));
  expect(await rowOf(victim)).toEqual(before);
  const events = await ok(admin<{ items: { kind: string }[] }>("GET", `/hosts/${victim.hostId}/events`));
  expect(events.items.map((event) => event.kind)).toEqual(["link_up"]);
});

test("an ack of a revision that was never sent is dropped", async () => {
  const agent = await enrolled("forward");
  agent.autoAck = false;
  const link = await agent.join(server.url);
  const [state] = link.of("state");
  link.ack({ rev: (state?.rev ?? 0) + 1, sha256: "0".repeat(64) });
  link.send({ t: "observe", at: 1, values: { load1: 3 }, events: [] });
  await until(async () => expect((await rowOf(agent)).observed).toEqual({ load1: 3 }));
  expect((await rowOf(agent)).appliedRev).toBeNull();
});

test("what is no frame closes the link with a reason; what is only unknown is let pass", async () => {
  const agent = await enrolled("forward");
  const bad: unknown[] = ["no json", "{}", { t: "ack" }, { t: "hello" }, Uint8Array.of(1, 2, 3)];
  for (const frame of bad) {
    const link = await agent.join(server.url);
    link.send({ t: "from.the.future", a: 1 });
    link.send(frame);
    expect(await link.next("bye")).toMatchObject({ reason: "bad_frame" });
    expect(await link.gone()).toMatchObject({ code: 1008, reason: "bad_frame" });
  }
  const large = await agent.join(server.url);
  large.send("x".repeat(300 * 1024));
  expect((await large.gone()).code).toBe(1009);
});

test("before a hello nothing else is taken, and a socket without the sub-protocol is closed", async () => {
  const early = new FakeLink(server.url, () => ({ t: "ack", rev: 0, sha256: "0".repeat(64), results: [] }));
  expect(await early.next("bye")).toMatchObject({ reason: "bad_frame" });
  const foreign = new FakeLink(server.url, () => ({}), []);
  expect((await foreign.gone()).code).toBe(1002);
  expect(foreign.frames).toEqual([]);
});

test("a host that claims a revision beyond all counting is refused, and the other hosts can be listed", async () => {
  const agent = await enrolled("forward");
  const claim = { rev: Number.MAX_SAFE_INTEGER, sha256: "0".repeat(64) };
  expect(await agent.dial(server.url, { applied: claim }).next("bye")).toMatchObject({ reason: "bad_frame" });
  const edge = agent.dial(server.url, { applied: { ...claim, rev: 2 ** 49 } });
  await edge.next("welcome");
  await ok(admin("PATCH", `/hosts/${agent.hostId}`, { name: "liar" }));
  expect((await ok(admin<{ items: unknown[] }>("GET", "/hosts"))).items.length).toBeGreaterThan(4);
});

test("a host that is not approved is linked and holds nothing; once approved it is sent its state, and shown as online", async () => {
  const agent = await enrolled("boarding", false);
  const link = await agent.join(server.url);
  expect(link.of("state")[0]?.items).toEqual([]);
  await ok(admin("POST", "/pairs", { boardingHostId: agent.hostId, forwardHostId: forwards[0]?.hostId }));
  await ok(admin("POST", `/hosts/${agent.hostId}/approve`));
  const state = await link.next("state", (s) => (s.items?.length ?? 0) > 0);
  expect(state.items).toMatchObject([{ type: "relay", listen: { from: 30_000, to: 30_199 } }]);
  expect(await ok(admin("GET", `/hosts/${agent.hostId}`))).toMatchObject({ state: "online", link: { online: true } });
});

test("a host whose socket dies is shown as offline, and gets no new connections", async () => {
  const agent = await enrolled("forward");
  await agent.join(server.url);
  expect((await rowOf(agent)).state).toBe("online");
  agent.link.cut();
  await until(async () => expect((await rowOf(agent)).state).toBe("offline"));
});

test("hosts ahead of a restored database are caught up, those too that could not apply all of what they took", async () => {
  const agent = await enrolled("forward");
  const sha256 = "0".repeat(64);
  const link = agent.dial(server.url, { applied: { rev: 40, sha256 }, accepted: { rev: 90, sha256 } });
  expect((await link.next("state")).rev).toBe(91);
  const ahead = agent.dial(server.url, { epoch: 2, applied: { rev: 200, sha256 } });
  expect((await ahead.next("state")).rev).toBe(201);
});

test("a retired host is told once to hold nothing; when it has verified that, it is sent away and refused, whatever it says", async () => {
  const agent = await enrolled("boarding");
  await ok(admin("POST", "/pairs", { boardingHostId: agent.hostId, forwardHostId: forwards[0]?.hostId }));
  agent.autoAck = false;
  const link = await agent.join(server.url);
  const full = await link.next("state", (s) => (s.items?.length ?? 0) > 0);
  link.ack(full);
  await ok(admin("POST", `/hosts/${agent.hostId}/retire`));
  const empty = await link.next("state", (s) => s.items?.length === 0);
  // Not yet: something could not be removed.
  link.ack(empty, [{ item: "removal", ok: false, error: "nft: busy" }]);
  await until(async () => expect((await rowOf(agent)).appliedRev).toBe(empty.rev));
  expect(link.closed).toBeUndefined();
  link.cut();
  const again = await agent.join(server.url);
  again.ack((await again.next("state")) as typeof empty);
  expect(await again.next("bye")).toMatchObject({ reason: "removed" });
  expect(await again.gone()).toMatchObject({ reason: "removed" });
  for (const applied of [null, { rev: 0, sha256: empty.sha256 }, { rev: full.rev, sha256: full.sha256 }]) {
    agent.epoch++;
    expect(await agent.dial(server.url, { applied }).next("bye")).toMatchObject({ reason: "refused" });
  }
});

test("a retired host that holds a higher revision, of before a restore, is told to hold nothing too", async () => {
  const agent = await enrolled("boarding");
  await ok(admin("POST", "/pairs", { boardingHostId: agent.hostId, forwardHostId: forwards[0]?.hostId }));
  const link = await agent.join(server.url);
  const full = await link.next("state", (s) => (s.items?.length ?? 0) > 0);
  await until(async () => expect((await rowOf(agent)).appliedRev).toBe(full.rev));
  link.cut();
  await ok(admin("POST", `/hosts/${agent.hostId}/retire`));
  const { desiredRev } = await rowOf(agent);
  agent.autoAck = false;
  for (const rev of [desiredRev, desiredRev + 9]) {
    agent.epoch++;
    const again = agent.dial(server.url, { applied: { rev, sha256: full.sha256 } });
    expect(await again.next("state")).toMatchObject({ items: [] });
    again.cut();
    await until(async () => expect((await rowOf(agent)).linkedAt).toBeNull());
  }
});

test("a host that sends faster than its frames are written is sent away, and others are served", async () => {
  const agent = await enrolled("forward");
  const link = await agent.join(server.url);
  const frame = JSON.stringify({ t: "observe", at: 1, values: { load1: 1 }, events: [] });
  for (let i = 0; i < 3000; i++) link.send(frame);
  expect(await link.gone()).toMatchObject({ reason: "overrun" });
  expect((await admin("GET", "/healthz")).status).toBe(200);
  await agent.join(server.url);
});

test("an ack of other content than was sent is not believed, and operators see it", async () => {
  const agent = await enrolled("forward");
  agent.autoAck = false;
  const link = await agent.join(server.url);
  link.ack({ rev: link.of("state")[0]?.rev ?? 0, sha256: "f".repeat(64) });
  expect(await link.next("bye")).toMatchObject({ reason: "bad_frame" });
  await until(async () => {
    const { items } = await ok(admin<{ items: { kind: string }[] }>("GET", `/hosts/${agent.hostId}/events`));
    expect(items.filter(({ kind }) => !kind.startsWith("link_"))).toMatchObject([{ kind: "ack_refused" }]);
  });
  expect((await rowOf(agent)).appliedRev).toBeNull();
});

test("a change that nobody was woken for is found by the sweep", async () => {
  const agent = await enrolled("forward");
  const link = await agent.join(server.url);
  // As another process would: a new revision in the database, and no call in this one.
  await server.ports.db.write((tx) =>
    tx.update(t.hosts).set({ privateAddress: "10.9.9.9", desiredRev: 77 }).where(eq(t.hosts.id, agent.hostId)),
  );
  const state = await link.next("state", (s) => s.rev === 77);
  expect(state.items).toMatchObject([{ type: "uplink", address: "10.9.9.9" }]);
});

test("an event of a kind that only newer agents know is kept under a name of its own, and the link stays; the welcome says so", async () => {
  const agent = await enrolled("exit");
  const link = await agent.join(server.url);
  expect(link.of("welcome")[0]).toMatchObject({ anyEvents: true });
  link.send({ t: "observe", at: 1, values: {}, events: [{ at: 1, kind: "newer_kind", detail: "what it says" }] });
  await until(async () => {
    const { items } = await ok(
      admin<{ items: { kind: string; detail: string }[] }>("GET", `/hosts/${agent.hostId}/events`),
    );
    expect(items).toContainEqual(expect.objectContaining({ kind: "other", detail: "newer_kind: what it says" }));
  });
  link.send({ t: "ping", id: 7, at: 1 });
  expect(await link.next("pong")).toMatchObject({ id: 7 });
});

test("an agent is sent only what it says it understands; what is kept back is shown, told once, and sent after its upgrade", async () => {
  const agent = await enrolled("forward");
  await ok(admin("PATCH", `/hosts/${agent.hostId}`, { privateAddress: "10.9.8.7", privateNetwork: "apart" }));
  const kinds = (link: FakeLink) =>
    link
      .of("state")
      .at(-1)
      ?.items?.map((item) => item.type);
  const shown = async () =>
    (await ok(admin<{ configuration: { notUnderstood: string[] } }>("GET", `/hosts/${agent.hostId}`))).configuration;
  const told = async () =>
    (
      await ok(admin<{ items: { kind: string; detail: string }[] }>("GET", `/hosts/${agent.hostId}/events`))
    ).items.filter((event) => event.kind === "needs_upgrade");
  // Today's agents, and those before them, which say nothing of it.
  expect(kinds(await agent.join(server.url))).toContain("uplink");
  agent.understands = { items: { relay: 1, teleport: 7 }, tasks: {} };
  for (let i = 0; i < 2; i++) expect(kinds(await agent.join(server.url))).not.toContain("uplink");
  expect((await shown()).notUnderstood).toEqual(["uplink", "linkProxy", "linkWays"]);
  await until(async () => expect(await told()).toMatchObject([{ detail: expect.stringContaining("uplink") }]));
  // It is asked for no task that it does not know either.
  const params = { target: "10.13.13.2", interface: null, count: 1, intervalMs: 1000 };
  const deadlineAt = Date.now() + 10_000;
  const events = server.ports.fleet.runTask(agent.hostId, { kind: "ping", params }, { deadlineAt });
  await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: "host_needs_upgrade" });
  const before = (await rowOf(agent)).desiredRev;
  agent.understands = { items: { relay: 2, uplink: 1, linkProxy: 1, linkWays: 1 }, tasks: { ping: 1 } };
  expect(kinds(await agent.join(server.url))).toContain("uplink");
  expect((await rowOf(agent)).desiredRev).toBe(before + 1);
  expect((await shown()).notUnderstood).toEqual([]);
});

test("an agent of a later release is let in: it offers more sub-protocols, sends more fields and other events", async () => {
  const agent = await enrolled("forward");
  const hello = (nonce: string) => ({
    ...{ t: "hello", hostId: agent.hostId, epoch: 5, signature: agent.signHello(nonce, agent.hostId, 5) },
    ...{ version: "9", bootId: "b", capabilities: [], applied: null, mood: "good" },
  });
  const link = new FakeLink(server.url, hello, ["trunkline.v2", "trunkline.v1"]);
  await link.next("state");
  const events = [
    { at: 1, kind: "quantum_leap", detail: "it leapt", extra: 1 },
    { at: 1, kind: "identity_cloned", detail: "not me" },
  ];
  link.send({ t: "observe", at: 1, values: { load1: 5, mood: 1 }, events });
  await until(async () => expect((await rowOf(agent)).observed).toEqual({ load1: 5 }));
  const { items } = await ok(
    admin<{ items: { kind: string; detail: string }[] }>("GET", `/hosts/${agent.hostId}/events`),
  );
  // What only the control plane says of a host is not taken from the host itself.
  const said = items.filter(({ kind }) => !kind.startsWith("link_"));
  expect(said.map(({ kind, detail }) => `${kind} ${detail}`).sort()).toEqual([
    "other identity_cloned: not me",
    "other quantum_leap: it leapt",
  ]);
  expect(link.closed).toBeUndefined();
  link.cut();
});
