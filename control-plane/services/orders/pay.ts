import { and, eq } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, makeId, requireUser } from "../context.ts";
import { transfer } from "../wallet/transfer.ts";
import { viewOrder } from "./views.ts";

export const payInput = z.object({ channel: z.enum(["balance", "alipay", "wechat", "epay"]) });

/**
 * Pays an order from the wallet: state, ledger, payment, audit and the job that fulfils it, or nothing. Paying races
 * with cancel and timeout; the conditional update decides. Throws `not_found`, `channel_not_configured`,
 * `order_not_payable`, `balance_too_low`.
 */
export async function payOrder(ctx: Context, orderId: Id<"ord">, input: z.infer<typeof payInput>) {
  const { userId } = requireUser(ctx);
  if (input.channel !== "balance") throw new AppError("channel_not_configured");
  const { ports } = ctx;
  return transaction(ctx, async (tx) => {
    const mine = and(eq(t.orders.id, orderId), eq(t.orders.userId, userId));
    const [order] = await tx.db.select().from(t.orders).where(mine);
    if (order === undefined) throw new AppError("not_found");
    const now = ports.clock.now();
    // The time to pay ends by the clock, not when the timeout job gets its turn.
    if (order.payBy <= now) throw new AppError("order_not_payable");
    expectOne(
      await tx.db
        .update(t.orders)
        .set({ state: "paid", paidAt: now })
        .where(and(mine, eq(t.orders.state, "pending"))),
      new AppError("order_not_payable"),
    );
    // A price may be discounted to nothing: then there is nothing to move.
    if (order.amountFen > 0)
      await transfer(ctx, tx, {
        from: `wallet:${userId}`,
        to: "revenue",
        amountFen: order.amountFen,
        causeKey: `order:${orderId}:charge`,
        note: `order ${orderId}`,
      });
    await tx.db.insert(t.payments).values({
      id: makeId(ports, "pay"),
      orderId,
      channel: "balance",
      amountFen: order.amountFen,
      state: "success",
      createdAt: now,
    });
    await tx.job("order.fulfil", { orderId }, now, `order.fulfil/${orderId}`);
    const paid = { ...order, state: "paid" as const, paidAt: now };
    await tx.audit("order.pay", orderId, viewOrder(order), viewOrder(paid));
    return viewOrder(paid);
  });
}
