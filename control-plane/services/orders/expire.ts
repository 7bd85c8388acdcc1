import { and, eq } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";

/** The time to pay is over: an order still pending expires. Any other was paid or cancelled first, and stays as it is. */
export async function expireOrder(ctx: Context, orderId: Id<"ord">): Promise<boolean> {
  return transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.orders)
      .set({ state: "expired", endedAt: ctx.ports.clock.now() })
      .where(and(eq(t.orders.id, orderId), eq(t.orders.state, "pending")));
    if (rowsAffected === 1) await tx.audit("order.expire", orderId, { state: "pending" }, { state: "expired" });
    return rowsAffected === 1;
  });
}
