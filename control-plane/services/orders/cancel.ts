import { and, eq } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, requireUser } from "../context.ts";
import { viewOrder } from "./views.ts";

/** The customer gives up an order that is not paid. Throws `not_found`, `order_not_cancellable`. */
export async function cancelOrder(ctx: Context, orderId: Id<"ord">) {
  const { userId } = requireUser(ctx);
  return transaction(ctx, async (tx) => {
    const mine = and(eq(t.orders.id, orderId), eq(t.orders.userId, userId));
    const [order] = await tx.db.select().from(t.orders).where(mine);
    if (order === undefined) throw new AppError("not_found");
    const endedAt = ctx.ports.clock.now();
    expectOne(
      await tx.db
        .update(t.orders)
        .set({ state: "cancelled", endedAt })
        .where(and(mine, eq(t.orders.state, "pending"))),
      new AppError("order_not_cancellable"),
    );
    const after = viewOrder({ ...order, state: "cancelled", endedAt });
    await tx.audit("order.cancel", orderId, viewOrder(order), after);
    return after;
  });
}
