import { asc, eq, sql } from "drizzle-orm";
import fc from "fast-check";
import { expect, test, vi } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, makeHarness, openHarness } from "../../testing/harness.ts";
import { note, propertySeed } from "../../testing/note.ts";
import { execute } from "../../testing/tables.ts";
import {
  enrolHosts,
  hostsUp,
  linesOf,
  MONTHLY_FEN,
  makeCustomer,
  makePerson,
  orderLines,
  type Person,
  stockCatalogue,
} from "../../testing/world.ts";
import { fulfilOrder } from "../orders/fulfil.ts";
import { payOrder } from "../orders/pay.ts";
import { getOrder } from "../orders/read.ts";
import { MAX_TRIES, provisionLine } from "./provision.ts";
import { getLine } from "./read.ts";

async function paidOrder(who: Person, quantity = 1): Promise<Id<"ord">> {
  const orderId = await orderLines(who, quantity);
  await payOrder(who.ctx, orderId, { channel: "balance" });
  return orderId;
}

async function stateOf(h: Harness, orderId: Id<"ord">): Promise<string | undefined> {
  const [order] = await h.ports.db.read.select().from(t.orders).where(eq(t.orders.id, orderId));
  return order?.state;
}

/** Runs jobs, letting time pass and hosts answer, until the order is no longer being made. */
async function settle(h: Harness, orderId: Id<"ord">, rounds = 40): Promise<string | undefined> {
  for (let i = 0; i < rounds; i++) {
    await h.runJobs();
    const state = await stateOf(h, orderId);
    if (state !== "paid" && state !== "processing") return state;
    h.clock.advance(61_000);
    await hostsUp(h);
  }
  return stateOf(h, orderId);
}

/** Everything that must be there once, whatever happened on the way. */
async function expectMadeOnce(h: Harness, orderId: Id<"ord">, quantity: number): Promise<void> {
  const lines = await linesOf(h, orderId);
  expect(lines.map((line) => line.state)).toEqual(Array(quantity).fill("active"));
  expect(new Set(lines.map((line) => line.exitHostId)).size).toBe(quantity);
  const resources = await h.ports.db.read.select().from(t.resources).where(eq(t.resources.orderId, orderId));
  expect(resources.map((r) => r.state)).toEqual(Array(quantity).fill("running"));
  for (const line of lines) {
    const steps = await h.ports.db.read.select().from(t.provisionSteps).where(eq(t.provisionSteps.lineId, line.id));
    expect(steps.map((s) => s.state)).toEqual(Array(t.PROVISION_STEPS.length).fill("done"));
    const ends = await h.ports.db.read
      .select()
      .from(t.jobs)
      .where(sql`dedupe_key LIKE ${`resource.expire/${line.resourceId}/%`}`);
    expect(ends).toHaveLength(1);
    const audits = await h.ports.db.read.select().from(t.auditLog).where(eq(t.auditLog.subject, line.id));
    expect(audits.map((a) => a.action)).toEqual(["line.activate"]);
  }
}

test("an order converges to exactly what was paid for, whichever write on the way the process dies at", async () => {
  let runs = 0;
  let crashes = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 14 }), { minLength: 1, maxLength: 4 }), async (gaps) => {
      const h = await openHarness();
      try {
        await stockCatalogue(h);
        await enrolHosts(h, "exit", 3);
        await hostsUp(h);
        const who = await makeCustomer(h, "customer", 10 * MONTHLY_FEN);
        const orderId = await paidOrder(who, 2);
        // The process dies at these writes: before it is made, after it committed but before anybody was told.
        const { write } = h.ports.db;
        let left = gaps[0] ?? 0;
        let next = 1;
        let dead = false;
        h.ports.db.write = async (fn) => {
          if (dead) throw new Error("dead");
          if (left-- > 0 || next > gaps.length) return write(fn);
          left = gaps[next++] ?? 0;
          crashes++;
          dead = true;
          if (next % 2 === 0) await write(fn);
          throw new Error("crash");
        };
        for (let i = 0; i < 12; i++) {
          await h.runJobs().catch(() => undefined);
          // Started again, a while later: leases have run out, hosts have answered.
          dead = false;
          h.clock.advance(61_000);
          await write((tx) => tx.update(t.hosts).set({ lastSeenAt: h.clock.now(), appliedRev: sql`desired_rev` }));
        }
        h.ports.db.write = write;
        expect(await settle(h, orderId)).toBe("completed");
        await expectMadeOnce(h, orderId, 2);
        const charges = await h.ports.db.read
          .select()
          .from(t.transfers)
          .where(eq(t.transfers.causeKey, `order:${orderId}:charge`));
        expect(charges).toHaveLength(1);
        runs++;
      } finally {
        await h.close();
      }
    }),
    { seed: propertySeed("provisioning"), numRuns: 15 },
  );
  note(`provisioning: ${runs} orders, ${crashes} crashes`);
});

test("lines made at once never share an exit, and what finds none waits", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  await enrolHosts(h, "exit", 6);
  await hostsUp(h);
  const customers = [await makeCustomer(h, "a", 9 * MONTHLY_FEN), await makeCustomer(h, "b", 9 * MONTHLY_FEN)];
  const orders = await Promise.all(customers.map((who) => paidOrder(who, 4)));
  for (let i = 0; i < 8; i++) {
    await h.runJobs();
    h.clock.advance(61_000);
    await hostsUp(h);
  }
  const lines = (await Promise.all(orders.map((id) => linesOf(h, id)))).flat();
  const taken = lines.flatMap((line) => (line.exitHostId === null ? [] : [line.exitHostId]));
  expect(taken).toHaveLength(6);
  expect(new Set(taken).size).toBe(6);
  expect(lines.filter((line) => line.state === "active")).toHaveLength(6);
  expect(lines.filter((line) => line.state === "provisioning")).toHaveLength(2);
  // More exits come: the two that waited are made too.
  await enrolHosts(h, "exit", 2);
  await hostsUp(h);
  for (const id of orders) expect(await settle(h, id)).toBe("completed");
});

test("the database itself refuses two lines on one exit", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  await enrolHosts(h, "exit", 2);
  await hostsUp(h);
  const who = await makeCustomer(h, "customer", 9 * MONTHLY_FEN);
  const orderId = await paidOrder(who, 2);
  expect(await settle(h, orderId)).toBe("completed");
  const [a, b] = await linesOf(h, orderId);
  await expect(
    execute(h.ports, sql`UPDATE lines SET exit_host_id = ${a?.exitHostId} WHERE id = ${b?.id}`),
  ).rejects.toThrow();
});

test("with no exit in the pool a line waits with growing pauses, then its order is shown as failed, with the step", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const who = await makeCustomer(h, "customer", MONTHLY_FEN);
  const orderId = await paidOrder(who);
  const pauses: number[] = [];
  for (let i = 0; i < 2 * MAX_TRIES && (await stateOf(h, orderId)) !== "failed"; i++) {
    await h.runJobs();
    const [job] = await h.ports.db.read.select().from(t.jobs).where(sql`kind = 'line.provision'`);
    if (job?.state !== "waiting") break;
    pauses.push(job.runAt - h.clock.now());
    h.clock.advance(job.runAt - h.clock.now());
  }
  expect(pauses).toHaveLength(MAX_TRIES - 1);
  expect(pauses.slice(0, 4)).toEqual([1000, 2000, 4000, 8000]);
  expect(Math.max(...pauses)).toBe(60_000);
  expect((await getOrder(who.ctx, orderId)).state).toBe("failed");
  const admin = await makePerson(h, "admin", "boss");
  const [line] = await linesOf(h, orderId);
  const shown = await getLine(admin.ctx, line?.id as Id<"lin">);
  expect(shown).toMatchObject({ state: "failed", resource: { state: "create_failed" } });
  expect("provisioning" in shown && shown.provisioning?.[0]).toMatchObject({
    step: "take_exit",
    state: "failed",
    tries: MAX_TRIES,
  });
});

test("a line is not active before its exit has verified the state that holds it", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const [exit] = (await enrolHosts(h, "exit", 1)) as [Id<"hst">];
  await hostsUp(h);
  const who = await makeCustomer(h, "customer", MONTHLY_FEN);
  const orderId = await paidOrder(who);
  const step = async () => {
    await h.runJobs();
    h.clock.advance(61_000);
    // Linked all the time, but nothing is acknowledged.
    await h.ports.db.write((tx) => tx.update(t.hosts).set({ lastSeenAt: h.clock.now() }));
    return (await linesOf(h, orderId))[0]?.state;
  };
  for (let i = 0; i < 5; i++) expect(await step()).toBe("provisioning");
  // Acknowledged, but an item failed there: not good enough, and operators see why.
  await h.ports.db.write((tx) =>
    tx
      .update(t.hosts)
      .set({ appliedRev: sql`desired_rev`, appliedResults: [{ item: "tunnel", ok: false, error: "no wg" }] }),
  );
  expect(await step()).toBe("provisioning");
  const steps = await h.ports.db.read.select().from(t.provisionSteps).orderBy(asc(t.provisionSteps.step));
  expect(steps.find((s) => s.step === "apply_state")?.lastError).toBe("tunnel: no wg");
  await hostsUp(h, [exit]);
  expect(await step()).toBe("active");
});

test("a host that is draining, not approved or without an address is not taken", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const [a, b, c, good] = await enrolHosts(h, "exit", 4);
  await hostsUp(h);
  await execute(h.ports, sql`UPDATE hosts SET state = 'draining' WHERE id = ${a}`);
  await execute(h.ports, sql`UPDATE hosts SET approved = 0 WHERE id = ${b}`);
  await execute(h.ports, sql`UPDATE hosts SET public_address = NULL WHERE id = ${c}`);
  const who = await makeCustomer(h, "customer", 9 * MONTHLY_FEN);
  const orderId = await paidOrder(who, 2);
  await h.runJobs();
  expect((await linesOf(h, orderId)).map((line) => line.exitHostId).sort()).toEqual([good, null].sort());
});

test("asked again after a lost answer, the pool answers the exit it gave, and gives no second one", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  await enrolHosts(h, "exit", 3);
  await hostsUp(h);
  const who = await makeCustomer(h, "customer", MONTHLY_FEN);
  const orderId = await paidOrder(who);
  await fulfilOrder(who.ctx, orderId);
  const [line] = await linesOf(h, orderId);
  const ask = () => h.ports.cloud.takeExit({ lineId: line?.id as Id<"lin">, regionId: "uae-dubai" });
  const first = await ask();
  expect(await Promise.all([ask(), ask(), ask()])).toEqual([first, first, first]);
  expect((await linesOf(h, orderId)).map((row) => ({ hostId: row.exitHostId }))).toEqual([first]);
});

test("a paid order is fulfilled once, however often its job runs, and an unpaid one never", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const who = await makeCustomer(h, "customer", 9 * MONTHLY_FEN);
  const unpaid = await orderLines(who);
  await fulfilOrder(who.ctx, unpaid);
  expect([await stateOf(h, unpaid), await linesOf(h, unpaid)]).toEqual(["pending", []]);
  const paid = await paidOrder(who, 3);
  await Promise.all([1, 2, 3].map(() => fulfilOrder(who.ctx, paid)));
  expect(await linesOf(h, paid)).toHaveLength(3);
});

test("a worker that comes back late, after another went on, undoes nothing of what that one did", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  await enrolHosts(h, "exit", 1);
  await hostsUp(h);
  const who = await makeCustomer(h, "customer", MONTHLY_FEN);
  const orderId = await paidOrder(who);
  await fulfilOrder(who.ctx, orderId);
  const [line] = await linesOf(h, orderId);
  const lineId = line?.id as Id<"lin">;
  const { cloud } = h.ports;
  const late = Promise.withResolvers<"wait">();
  h.ports.cloud = {
    ...cloud,
    takeExit() {
      h.ports.cloud = cloud;
      return late.promise;
    },
  };
  const slow = provisionLine(who.ctx, lineId);
  await vi.waitFor(() => expect(h.ports.cloud).toBe(cloud));
  await provisionLine(who.ctx, lineId);
  late.resolve("wait");
  await slow;
  const steps = await h.ports.db.read.select().from(t.provisionSteps);
  expect(steps.find((step) => step.step === "take_exit")).toMatchObject({ state: "done", lastError: null });
});
