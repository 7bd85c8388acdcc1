import { and, eq, sql } from "drizzle-orm";
import fc from "fast-check";
import { expect, test } from "vitest";
import { canonicalJson } from "../../../shared/canonical.ts";
import { isAppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { stateItemSchema } from "../../../shared/protocol/desired-state.ts";
import { ITEM_VERSIONS, UNDERSTANDS } from "../../../shared/protocol/versions.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { type Harness, openHarness } from "../../testing/harness.ts";
import { note, propertySeed } from "../../testing/note.ts";
import {
  buyLines,
  enrolHosts,
  enrolRequest,
  hostsUp,
  key32,
  linesOf,
  MONTHLY_FEN,
  makeCustomer,
  makeNetwork,
  orderLines,
  type Person,
  stockCatalogue,
  systemOf,
} from "../../testing/world.ts";
import { deleteAccountWhitelist, putAccountWhitelist } from "../accounts/whitelist.ts";
import { putServiceType } from "../catalogue/put.ts";
import { closeConnection } from "../connections/close.ts";
import { openConnection } from "../connections/open.ts";
import { updateLine } from "../lines/update.ts";
import { payOrder } from "../orders/pay.ts";
import { creditWallet } from "../wallet/credit.ts";
import { desiredState, desiredStates } from "./desired-state.ts";
import { enrolHost } from "./enrol.ts";
import { createEnrolmentToken } from "./enrolment-tokens.ts";
import { joinHosts } from "./join.ts";
import { drainHost, resumeHost, retireHost } from "./life.ts";
import { createPair, deletePair, listPairs, updatePair } from "./pairs.ts";
import { replaceHost } from "./replace.ts";
import { acknowledge, leaveHost, observe } from "./report.ts";
import { approveHost, updateHost } from "./update.ts";

type States = Map<string, { rev: number; content: string }>;

async function statesOf(db: Db): Promise<States> {
  const states: States = new Map();
  const ids = (await db.select({ id: t.hosts.id }).from(t.hosts)).map(({ id }) => id);
  for (const [id, { rev, items }] of await desiredStates(db, ids))
    states.set(id, { rev, content: canonicalJson(items) });
  return states;
}

/** Watches every write transaction: one that changes what a host should hold must raise that host's revision with it, and say why. */
async function watchRevisions(h: Harness): Promise<{ faults: string[]; changes: number }> {
  const seen = { faults: [] as string[], changes: 0 };
  const { write } = h.ports.db;
  let before = await statesOf(h.ports.db.read);
  h.ports.db.write = async (fn) => {
    let states = before;
    const answer = await write(async (tx) => {
      const result = await fn(tx);
      states = await statesOf(tx);
      for (const [id, after] of states) {
        // A host that is new has no revision yet that could have been sent with other content.
        const was = before.get(id) ?? { rev: -1, content: "[]" };
        if (after.content === was.content) continue;
        seen.changes++;
        if (after.rev <= was.rev) seen.faults.push(`${id} at ${after.rev}: ${was.content} → ${after.content}`);
        const [why] = await tx
          .select({ changes: t.hostRevisions.changes })
          .from(t.hostRevisions)
          .where(and(eq(t.hostRevisions.hostId, id as Id<"hst">), eq(t.hostRevisions.rev, after.rev)));
        if ((why?.changes.length ?? 0) === 0) seen.faults.push(`${id} at ${after.rev}: no word of why`);
      }
      return result;
    });
    before = states;
    return answer;
  };
  return seen;
}

type Command =
  | { do: "buy"; up: boolean }
  | { do: "open"; line: number }
  | { do: "close"; connection: number }
  | { do: "pass time"; days: number }
  | { do: "update"; host: number; what: keyof typeof PATCHES }
  | { do: "pair"; n: number; what: "create" | "update" | "delete" }
  | { do: "whitelist"; n: number }
  | { do: "enrol"; role: "boarding" | "forward" | "exit" }
  | { do: "report"; host: number; what: "join" | "leave" | "ack" | "observe" }
  | { do: "life"; host: number; other: number; what: "drain" | "resume" | "retire" | "replace" }
  | { do: "own whitelist"; n: number }
  | { do: "mtu"; line: number; mtu: number | null }
  | { do: "hosts up" };

const PATCHES = {
  publicAddress: (n: number) => ({ publicAddress: `192.0.2.${n % 250}` }),
  noPublicAddress: () => ({ publicAddress: null }),
  privateAddress: (n: number) => ({ privateAddress: `10.0.0.${n % 250}`, privateNetwork: "udpn" }),
  noPrivateNetwork: () => ({ privateNetwork: null }),
  relayDriver: (n: number) => ({ relayDriver: n % 2 ? ("nft" as const) : ("socat" as const) }),
  wireguardPort: (n: number) => ({ wireguardPort: 50_000 + n }),
  uplinkPort: (n: number) => ({ uplinkPort: 52_000 + n }),
  linkProxyPort: (n: number) => ({ linkProxyPort: 53_000 + n }),
  outInterface: (n: number) => ({ outInterface: `eth${n % 9}` }),
  capacity: (n: number) => ({ capacity: n % 3 }),
  name: (n: number) => ({ name: `host ${n}` }),
};

const n = fc.nat(500);
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("buy" as const), up: fc.boolean() }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("open" as const), line: n }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("close" as const), connection: n }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("pass time" as const), days: fc.integer({ min: 1, max: 40 }) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("update" as const),
      host: n,
      what: fc.constantFrom(...(Object.keys(PATCHES) as (keyof typeof PATCHES)[])),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("pair" as const),
      n,
      what: fc.constantFrom("create" as const, "update" as const, "delete" as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("whitelist" as const), n }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("enrol" as const),
      role: fc.constantFrom("boarding" as const, "forward" as const, "exit" as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("report" as const),
      host: n,
      what: fc.constantFrom("join" as const, "leave" as const, "ack" as const, "observe" as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("life" as const),
      host: n,
      other: n,
      what: fc.constantFrom("drain" as const, "resume" as const, "retire" as const, "replace" as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("own whitelist" as const), n }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("mtu" as const),
      line: n,
      mtu: fc.option(fc.integer({ min: 1280, max: 1420 })),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("hosts up" as const) }) },
);

const pick = <T>(items: readonly T[], i: number): T | undefined => items[i % Math.max(1, items.length)];

async function run(h: Harness, who: Person, c: Command, step: number): Promise<void> {
  const db = h.ports.db.read;
  const ctx = systemOf(h);
  const hosts = await db.select().from(t.hosts);
  if (c.do === "buy") {
    await creditWallet(ctx, who.id, { amountFen: MONTHLY_FEN, reason: "test" });
    await payOrder(who.ctx, await orderLines(who), { channel: "balance" });
    await h.runJobs();
    if (c.up) await hostsUp(h);
    h.clock.advance(2_000);
    await h.runJobs();
  } else if (c.do === "open") {
    const line = pick(await db.select().from(t.lines), c.line);
    if (line !== undefined) await openConnection(who.ctx, { lineId: line.id, clientPublicKey: key32(h) }, 0);
  } else if (c.do === "close") {
    const connection = pick(await db.select().from(t.connections), c.connection);
    if (connection !== undefined) await closeConnection(who.ctx, connection.id, 0);
  } else if (c.do === "pass time") {
    h.clock.advance(c.days * 86_400_000);
    await h.runJobs();
  } else if (c.do === "update") {
    const host = pick(hosts, c.host);
    if (host !== undefined) await updateHost(ctx, host.id, PATCHES[c.what](step));
  } else if (c.do === "pair" && c.what !== "create") {
    const pair = pick((await listPairs(ctx)).items, c.n);
    if (pair === undefined) return;
    if (c.what === "delete") await deletePair(ctx, pair.id);
    else await updatePair(ctx, pair.id, { startPort: 30_000 + c.n, maxLoad: 1 + (step % 20) });
  } else if (c.do === "pair") {
    const boarding = pick(
      hosts.filter((host) => host.role === "boarding"),
      c.n,
    );
    const forward = pick(
      hosts.filter((host) => host.role === "forward"),
      c.n >> 2,
    );
    if (boarding !== undefined && forward !== undefined)
      await createPair(ctx, {
        boardingHostId: boarding.id,
        forwardHostId: forward.id,
        boardingAddress: "192.0.2.1",
        startPort: 40_000 + c.n * 20,
        maxLoad: 20,
      });
  } else if (c.do === "whitelist") {
    await putServiceType(ctx, "TK-1", { name: "TK", cidrs: [`203.0.${c.n % 5}.0/24`], domains: [] });
  } else if (c.do === "life") {
    const host = pick(hosts, c.host);
    const other = pick(
      hosts.filter((one) => one.role === host?.role),
      c.other,
    );
    if (host === undefined || other === undefined) return;
    if (c.what === "drain") await drainHost(ctx, host.id);
    else if (c.what === "resume") await resumeHost(ctx, host.id);
    else if (c.what === "retire") await retireHost(ctx, host.id);
    else await replaceHost(ctx, host.id, { byHostId: other.id });
  } else if (c.do === "own whitelist") {
    if (c.n % 3 === 0) await deleteAccountWhitelist(ctx, who.id);
    else
      await putAccountWhitelist(ctx, who.id, { cidrs: [`198.51.${c.n % 5}.0/24`], domains: [`n${c.n % 3}.example`] });
  } else if (c.do === "mtu") {
    const line = pick(await db.select().from(t.lines), c.line);
    if (line !== undefined) await updateLine(who.ctx, line.id, { mtu: c.mtu });
  } else if (c.do === "enrol") {
    const { token } = await createEnrolmentToken(ctx, {
      role: c.role,
      regionId: "uae-dubai",
      maxUses: 1,
      expiresInS: 60,
    });
    const { hostId } = await enrolHost(ctx, token, enrolRequest(h, c.role));
    await approveHost(ctx, hostId);
  } else if (c.do === "report") {
    const host = pick(hosts, c.host);
    if (host === undefined) return;
    const applied = { rev: host.desiredRev, sha256: "0".repeat(64) };
    if (c.what === "join")
      await joinHosts(ctx, [
        {
          t: "hello",
          hostId: host.id,
          epoch: host.epoch + 1,
          signature: "",
          version: "2",
          bootId: "b",
          capabilities: [],
          applied,
          ...(step % 3 === 0
            ? {}
            : { understands: { items: step % 3 === 1 ? { relay: 1 } : ITEM_VERSIONS, tasks: {} } }),
        },
      ]);
    else if (c.what === "leave") await leaveHost(ctx, host.id, host.epoch, "silent");
    else if (c.what === "ack")
      await acknowledge(ctx, [{ hostId: host.id, epoch: host.epoch, ...applied, results: [] }]);
    else await observe(ctx, host.id, host.epoch, { load1: step }, []);
  } else {
    await hostsUp(h);
    h.clock.advance(30_000);
    await h.runJobs();
  }
}

async function makeWorld() {
  const h = await openHarness({ settings: { portQuarantineMs: 0 } });
  await stockCatalogue(h);
  await makeNetwork(h, { forwards: 2, exits: 4, ports: 5 });
  // As agents of this release: they are sent every kind of item.
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ understands: canonicalJson(UNDERSTANDS) }));
  const who = await makeCustomer(h, "customer");
  await buyLines(h, who, 2);
  return { h, who };
}

test("whenever what a host should hold changes, its revision grows in the same transaction, whatever verbs run", async () => {
  const done: Record<string, number> = {};
  let changes = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(command, { minLength: 10, maxLength: 30 }), async (commands) => {
      const { h, who } = await makeWorld();
      try {
        const seen = await watchRevisions(h);
        for (const [step, c] of commands.entries()) {
          try {
            await run(h, who, c, step);
            done[c.do] = (done[c.do] ?? 0) + 1;
          } catch (error) {
            if (!isAppError(error)) throw error;
          }
          expect(seen.faults).toEqual([]);
        }
        changes += seen.changes;
        // The state is a pure function of the database, the same whichever hosts it is asked for with, and one that agents accept.
        const ids = (await h.ports.db.read.select({ id: t.hosts.id }).from(t.hosts)).map(({ id }) => id);
        const together = await desiredStates(h.ports.db.read, ids);
        for (const id of ids) {
          const one = await desiredState(h.ports.db.read, id);
          expect(together.get(id)).toEqual(one);
          for (const item of one?.items ?? []) expect(stateItemSchema.safeParse(item).error).toBeUndefined();
          expect(new Set(one?.items.map((item) => item.id)).size).toBe(one?.items.length);
        }
      } finally {
        await h.close();
      }
    }),
    { seed: propertySeed("revisions"), numRuns: 8 },
  );
  note(`revisions: ${changes} changes of a host's state by ${JSON.stringify(done)}`);
  expect(Object.keys(done).length).toBeGreaterThan(7);
  // Hundreds of verbs, each with every host's state computed after it: minutes on a machine that is busy.
}, 400_000);

test("a line that is given up takes its tunnel off its exit, with a new revision", async () => {
  const h = await openHarness();
  try {
    await stockCatalogue(h);
    const [exit] = await enrolHosts(h, "exit", 1);
    const who = await makeCustomer(h, "customer", MONTHLY_FEN);
    const seen = await watchRevisions(h);
    const orderId = await orderLines(who);
    await payOrder(who.ctx, orderId, { channel: "balance" });
    for (let i = 0; i < 200 && (await linesOf(h, orderId))[0]?.state !== "failed"; i++) {
      await h.runJobs();
      h.clock.advance(60_000);
    }
    expect(await linesOf(h, orderId)).toMatchObject([{ state: "failed" }]);
    expect((await desiredState(h.ports.db.read, exit as Id<"hst">))?.items).toEqual([]);
    expect(seen).toEqual({ faults: [], changes: 2 });
  } finally {
    await h.close();
  }
});

test("a host that is not approved, or is retired, should hold nothing", async () => {
  const h = await openHarness();
  try {
    await stockCatalogue(h);
    const { boarding } = await makeNetwork(h, {});
    const items = async () => (await desiredState(h.ports.db.read, boarding))?.items.length;
    expect(await items()).toBe(1);
    const set = (state: "online" | "retired", approved: boolean) =>
      h.ports.db.write((tx) => tx.update(t.hosts).set({ state, approved }).where(eq(t.hosts.id, boarding)));
    await set("retired", true);
    expect(await items()).toBe(0);
    await set("online", false);
    expect(await items()).toBe(0);
    expect(await h.ports.db.read.all(sql`SELECT 1`)).toHaveLength(1);
  } finally {
    await h.close();
  }
});

test("hosts of one private network and paired hosts find each other's way to the control plane, and nobody else does", async () => {
  const h = await openHarness();
  try {
    await stockCatalogue(h);
    const { boarding, forwards, exits } = await makeNetwork(h, { forwards: 2, exits: 2 });
    const ctx = systemOf(h);
    const [first, second] = forwards as [Id<"hst">, Id<"hst">];
    const [near, far] = exits as [Id<"hst">, Id<"hst">];
    await h.ports.db.write((tx) => tx.update(t.hosts).set({ understands: canonicalJson(UNDERSTANDS) }));
    const item = async (id: Id<"hst">, type: string) =>
      (await desiredState(h.ports.db.read, id))?.items.find((one) => one.type === type);
    await updateHost(ctx, first, { privateAddress: "10.1.0.1", privateNetwork: "udpn" });
    await updateHost(ctx, near, { privateAddress: "10.1.0.9", privateNetwork: "udpn" });
    expect(await item(near, "linkWays")).toMatchObject({ via: [{ hostId: first, address: "10.1.0.1", port: 51_822 }] });
    expect(await item(far, "linkWays")).toBeUndefined();
    // A paired boarding host comes from outside: the first forward host listens for both, and names both.
    const [pair] = await h.ports.db.read.select().from(t.pairs).where(eq(t.pairs.forwardHostId, first));
    expect(pair?.boardingHostId).toBe(boarding);
    const [row] = await h.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, boarding));
    expect(await item(first, "linkProxy")).toMatchObject({
      address: "0.0.0.0",
      allow: ["10.1.0.9/32", `${row?.publicAddress}/32`].sort(),
    });
    expect(await item(boarding, "linkWays")).toMatchObject({ via: expect.arrayContaining([expect.anything()]) });
    // Without a pair from outside it listens on its private address alone.
    await h.ports.db.write((tx) => tx.delete(t.pairs).where(eq(t.pairs.forwardHostId, first)));
    expect(await item(first, "linkProxy")).toMatchObject({ address: "10.1.0.1", allow: ["10.1.0.9/32"] });
    await retireHost(ctx, first);
    expect(await item(near, "linkWays")).toBeUndefined();
    expect(await item(second, "linkProxy")).toMatchObject({ allow: [`${row?.publicAddress}/32`] });
  } finally {
    await h.close();
  }
});
