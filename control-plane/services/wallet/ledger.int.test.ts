import { eq, sql } from "drizzle-orm";
import fc from "fast-check";
import { expect, test } from "vitest";
import { isAppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { fen } from "../../../shared/money.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Harness, makeHarness } from "../../testing/harness.ts";
import { note, propertySeed } from "../../testing/note.ts";
import { execute } from "../../testing/tables.ts";
import {
  enrolHosts,
  MONTHLY_FEN,
  makeCustomer,
  orderLines,
  type Person,
  stockCatalogue,
  systemOf,
} from "../../testing/world.ts";
import { cancelOrder } from "../orders/cancel.ts";
import { expireOrder } from "../orders/expire.ts";
import { payOrder } from "../orders/pay.ts";
import { checkLedger } from "./check.ts";
import { creditWallet } from "./credit.ts";
import { readWallet } from "./read.ts";
import { transfer } from "./transfer.ts";

type Operation =
  | { do: "credit"; user: number; amountFen: number }
  | { do: "order"; user: number; quantity: number }
  | { do: "pay" | "cancel" | "timeout"; user: number; order: number };

const user = fc.nat(2);
const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("credit" as const),
      user,
      amountFen: fc.integer({ min: 1, max: 3 * MONTHLY_FEN }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant("order" as const), user, quantity: fc.integer({ min: 1, max: 3 }) }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("pay" as const), user, order: fc.nat(5) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constantFrom("cancel" as const, "timeout" as const), user, order: fc.nat(5) }),
  },
);

type Order = { id: Id<"ord">; amountFen: number; end?: "paid" | "cancelled" | "expired" };
/** What a user should own, by what it was told of its operations. */
type Model = { person: Person; balanceFen: number; orders: Order[] };

/** Runs one operation; the model follows only what the verb answered. */
async function run(h: Harness, models: Model[], op: Operation): Promise<void> {
  const model = models[op.user] as Model;
  const end = async (
    order: Order | undefined,
    verb: (id: Id<"ord">) => Promise<unknown>,
    name: Order["end"] & string,
  ) => {
    if (order === undefined) return;
    if ((await verb(order.id)) === false) return;
    // Two ends of one order, or a payment that the wallet could not bear, would show here or in the balances.
    expect(order.end).toBeUndefined();
    order.end = name;
    if (name === "paid") model.balanceFen -= order.amountFen;
  };
  const { ctx } = model.person;
  try {
    if (op.do === "credit") {
      await creditWallet(systemOf(h), model.person.id, { amountFen: op.amountFen, reason: "model" });
      model.balanceFen += op.amountFen;
    } else if (op.do === "order") {
      const id = await orderLines(model.person, op.quantity);
      model.orders.push({ id, amountFen: op.quantity * MONTHLY_FEN });
    } else {
      const order = model.orders.at(-1 - op.order);
      if (op.do === "pay") await end(order, (id) => payOrder(ctx, id, { channel: "balance" }), "paid");
      else if (op.do === "cancel") await end(order, (id) => cancelOrder(ctx, id), "cancelled");
      else await end(order, (id) => expireOrder(systemOf(h), id), "expired");
    }
  } catch (error) {
    if (!isAppError(error)) throw error;
    expect(["balance_too_low", "order_not_payable", "order_not_cancellable"]).toContain(error.code);
  }
}

test("wallets add up under random concurrent credits, orders, payments, cancellations and timeouts", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  let operations = 0;
  let names = 0;
  let paid = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(operation, { minLength: 4, maxLength: 24 }), { minLength: 3, maxLength: 8 }),
      async (batches) => {
        const models: Model[] = [];
        for (let i = 0; i < 3; i++)
          models.push({ person: await makeCustomer(h, `model${names++}`), balanceFen: 0, orders: [] });
        for (const batch of batches) {
          operations += batch.length;
          await Promise.all(batch.map((op) => run(h, models, op)));
          expect(await checkLedger(h.ports.db.read)).toEqual([]);
          for (const { person, balanceFen, orders } of models) {
            expect(balanceFen).toBeGreaterThanOrEqual(0);
            expect(await readWallet(person.ctx)).toEqual({ balanceFen });
            const rows = await h.ports.db.read.select().from(t.orders).where(eq(t.orders.userId, person.id));
            expect(new Map(rows.map((row) => [row.id, row.state]))).toEqual(
              new Map(orders.map((order) => [order.id, order.end ?? "pending"])),
            );
          }
        }
        paid += models.flatMap((m) => m.orders).filter((o) => o.end === "paid").length;
      },
    ),
    { seed: propertySeed("wallets add up"), numRuns: 40 },
  );
  note(`ledger: ${operations} operations, ${paid} orders paid`);
  // The run proves something only when payments happened and some were refused.
  expect(paid).toBeGreaterThan(20);
  // Σ debits = Σ credits over all accounts.
  const [sum] = await h.ports.db.read.all<{ sum: number }>(sql`SELECT SUM(balance_fen) AS sum FROM ledger_accounts`);
  expect(sum?.sum).toBe(0);
});

test("a cause moves money once", async () => {
  const h = await makeHarness();
  const customer = await makeCustomer(h, "once");
  const move = () =>
    transaction(systemOf(h), (tx) =>
      transfer(systemOf(h), tx, {
        from: "gateway:test",
        to: `wallet:${customer.id}`,
        amountFen: fen(500),
        causeKey: "payment:1",
        note: "notification",
      }),
    );
  const results = await Promise.allSettled(Array.from({ length: 100 }, move));
  expect(results.filter((r) => r.status === "fulfilled")).toHaveLength(1);
  expect(await readWallet(customer.ctx)).toEqual({ balanceFen: 500 });
  expect(await checkLedger(h.ports.db.read)).toEqual([]);
});

test("the database itself refuses what would break the ledger, the audit log or a host's revision", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const customer = await makeCustomer(h, "guarded", 500);
  const wallet = `wallet:${customer.id}`;
  const refused = async (what: string, statement: ReturnType<typeof sql>) => {
    const error = await execute(h.ports, statement).then(
      () => undefined,
      (e: Error) => e,
    );
    expect(String(error?.cause ?? error), what).toMatch(/ledger|append only|desired_rev/);
  };
  const entry = (id: string, account: string, fen: number) =>
    sql`INSERT INTO ledger_entries VALUES (${id}, 'trf_test', ${account}, ${fen}, 0)`;

  await refused("a wallet below zero, by an entry", entry("ent_1", wallet, -501));
  await refused("a wallet below zero, by hand", sql`UPDATE ledger_accounts SET balance_fen = -1 WHERE id = ${wallet}`);
  await refused("an account that starts with money", sql`INSERT INTO ledger_accounts VALUES ('wallet:x', 1)`);
  await refused("an account deleted", sql`DELETE FROM ledger_accounts WHERE id = ${wallet}`);
  await refused("an entry of nothing", entry("ent_1", wallet, 0));
  await refused("a transfer without entries", sql`INSERT INTO transfers VALUES ('trf_test', 'cause', '', 0)`);
  await expect(
    h.ports.db.write(async (tx) => {
      await tx.all(entry("ent_1", wallet, 5));
      await tx.all(entry("ent_2", "adjustment", -4));
      await tx.all(sql`INSERT INTO transfers VALUES ('trf_test', 'cause', '', 0)`);
    }),
  ).rejects.toThrow();
  await refused(
    "an entry added to a closed transfer",
    sql`INSERT INTO ledger_entries SELECT 'ent_1', id, ${wallet}, 5, 0 FROM transfers`,
  );
  for (const table of ["ledger_entries", "transfers", "audit_log"]) {
    const name = sql.identifier(table);
    await refused(`${table} updated`, sql`UPDATE ${name} SET id = id`);
    await refused(`${table} deleted`, sql`DELETE FROM ${name}`);
  }
  await enrolHosts(h, "exit", 1);
  await refused("a host's desired revision going back", sql`UPDATE hosts SET desired_rev = desired_rev - 1`);
  await execute(h.ports, sql`UPDATE hosts SET desired_rev = desired_rev + 1`);
  expect(await readWallet(customer.ctx)).toEqual({ balanceFen: 500 });
  expect(await checkLedger(h.ports.db.read)).toEqual([]);
});

test("the ledger check finds a balance that is not the sum of its entries", async () => {
  const h = await makeHarness();
  const customer = await makeCustomer(h, "checked", 500);
  await execute(h.ports, sql`UPDATE ledger_accounts SET balance_fen = 501 WHERE id = ${`wallet:${customer.id}`}`);
  expect(await checkLedger(h.ports.db.read)).toEqual([
    { what: "account", id: `wallet:${customer.id}`, detail: "balance 501, entries 500" },
  ]);
});
