import { eq, like } from "drizzle-orm";
import { expect, test } from "vitest";
import { isAppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, makeHarness } from "../../testing/harness.ts";
import { note } from "../../testing/note.ts";
import { seededRandom, shuffled } from "../../testing/random.ts";
import { MONTHLY_FEN, makeCustomer, orderLines, stockCatalogue, systemOf } from "../../testing/world.ts";
import { checkLedger } from "../wallet/check.ts";
import { readWallet } from "../wallet/read.ts";
import { cancelOrder } from "./cancel.ts";
import { expireOrder } from "./expire.ts";
import { payOrder } from "./pay.ts";

const ROUNDS = 60;

/** What is left behind by an order, for each of its possible ends. */
async function traces(h: Harness, orderId: Id<"ord">) {
  const db = h.ports.db.read;
  const [order] = await db.select().from(t.orders).where(eq(t.orders.id, orderId));
  const audits = await db.select().from(t.auditLog).where(eq(t.auditLog.subject, orderId));
  const count = async (rows: Promise<unknown[]>) => (await rows).length;
  return {
    state: order?.state,
    ends: audits.map((row) => row.action).filter((action) => action !== "order.create"),
    charges: await count(
      db
        .select()
        .from(t.transfers)
        .where(eq(t.transfers.causeKey, `order:${orderId}:charge`)),
    ),
    payments: await count(db.select().from(t.payments).where(eq(t.payments.orderId, orderId))),
    fulfilJobs: await count(
      db
        .select()
        .from(t.jobs)
        .where(like(t.jobs.dedupeKey, `order.fulfil/${orderId}`)),
    ),
  };
}

test("racing pay, cancel and timeout of an order have exactly one winner, and money moves only if that is the payment", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const customer = await makeCustomer(h, "racer", ROUNDS * MONTHLY_FEN);
  const random = seededRandom(20_260_310);
  const wins: Record<string, number> = { paid: 0, cancelled: 0, expired: 0 };

  for (let round = 0; round < ROUNDS; round++) {
    const orderId = await orderLines(customer);
    const attempts: [string, () => Promise<unknown>][] = [
      ["paid", () => payOrder(customer.ctx, orderId, { channel: "balance" })],
      ["paid", () => payOrder(customer.ctx, orderId, { channel: "balance" })],
      ["cancelled", () => cancelOrder(customer.ctx, orderId)],
      ["cancelled", () => cancelOrder(customer.ctx, orderId)],
      ["expired", () => expireOrder(systemOf(h), orderId)],
      ["expired", () => expireOrder(systemOf(h), orderId)],
    ];
    const results = await Promise.allSettled(
      shuffled(attempts, random).map(async ([name, attempt]) => ({ name, result: await attempt() })),
    );
    const winners = results.flatMap((r) => (r.status === "fulfilled" && r.value.result !== false ? r.value.name : []));
    const losses = results.flatMap((r) => (r.status === "rejected" ? [r.reason] : []));
    expect(losses.filter((error) => !isAppError(error))).toEqual([]);
    const refusals = ["order_not_payable", "order_not_cancellable"];
    expect(losses.filter((error) => !refusals.includes(error.code))).toEqual([]);

    expect(winners).toHaveLength(1);
    const [winner = ""] = winners;
    wins[winner] = (wins[winner] ?? 0) + 1;
    const one = winner === "paid" ? 1 : 0;
    expect(await traces(h, orderId)).toEqual({
      state: winner,
      ends: [{ paid: "order.pay", cancelled: "order.cancel", expired: "order.expire" }[winner]],
      charges: one,
      payments: one,
      fulfilJobs: one,
    });
    const { balanceFen } = await readWallet(customer.ctx);
    expect(balanceFen).toBe((ROUNDS - (wins.paid ?? 0)) * MONTHLY_FEN);
  }
  note(`race: ${ROUNDS} rounds won by ${JSON.stringify(wins)}`);
  expect(Object.values(wins).every((n) => n > 0)).toBe(true);
  expect(await checkLedger(h.ports.db.read)).toEqual([]);
});

test("an order is not payable from the instant its time is over, though the timeout job has not run yet", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const customer = await makeCustomer(h, "late", MONTHLY_FEN);
  const orderId = await orderLines(customer);
  h.clock.advance(h.ports.settings.orderPayTimeoutMs);
  await expect(payOrder(customer.ctx, orderId, { channel: "balance" })).rejects.toThrow(
    expect.objectContaining({ code: "order_not_payable" }),
  );
  expect(await traces(h, orderId)).toMatchObject({ state: "pending", charges: 0 });
});

test("an order the wallet can't pay stays payable, and leaves nothing behind", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const customer = await makeCustomer(h, "poor", MONTHLY_FEN - 1);
  const orderId = await orderLines(customer);
  await expect(payOrder(customer.ctx, orderId, { channel: "balance" })).rejects.toThrow(
    expect.objectContaining({ code: "balance_too_low" }),
  );
  expect(await traces(h, orderId)).toEqual({ state: "pending", ends: [], charges: 0, payments: 0, fulfilJobs: 0 });
  expect(await readWallet(customer.ctx)).toEqual({ balanceFen: MONTHLY_FEN - 1 });
});

test("the timeout job expires an unpaid order, and leaves a paid one alone", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const customer = await makeCustomer(h, "timely", MONTHLY_FEN);
  const [unpaid, paid] = [await orderLines(customer), await orderLines(customer)];
  await payOrder(customer.ctx, paid, { channel: "balance" });
  h.clock.advance(h.ports.settings.orderPayTimeoutMs - 1);
  await h.runJobs();
  expect((await traces(h, unpaid)).state).toBe("pending");
  h.clock.advance(1);
  await h.runJobs();
  expect((await traces(h, unpaid)).state).toBe("expired");
  expect((await traces(h, paid)).state).toBe("processing");
});
