import { and, eq } from "drizzle-orm";
import { addMonths, anchorDayOf } from "../../../shared/calendar.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";

/**
 * A paid order becomes resources that are being made, each with its line and the job that provisions it. Once only: the
 * conditional update from `paid` decides, and all of it is one transaction.
 */
export async function fulfilOrder(ctx: Context, orderId: Id<"ord">): Promise<void> {
  await transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.orders)
      .set({ state: "processing" })
      .where(and(eq(t.orders.id, orderId), eq(t.orders.state, "paid")));
    if (rowsAffected !== 1) return;
    const [found] = await tx.db
      .select({ order: t.orders, quote: t.quotes, price: t.prices, product: t.products, region: t.regions })
      .from(t.orders)
      .innerJoin(t.quotes, eq(t.quotes.id, t.orders.quoteId))
      .innerJoin(t.prices, eq(t.prices.id, t.quotes.priceId))
      .innerJoin(t.products, eq(t.products.id, t.prices.productId))
      .innerJoin(t.regions, eq(t.regions.id, t.prices.regionId))
      .where(eq(t.orders.id, orderId));
    if (found === undefined) throw new Error(`order ${orderId} has no price any more`);
    for (let ordinal = 0; ordinal < found.order.quantity; ordinal++) await createLine(ctx, tx, found, ordinal);
    await tx.audit("order.fulfil", orderId, { state: "paid" }, { state: "processing" });
  });
}

type Found = {
  order: typeof t.orders.$inferSelect;
  quote: typeof t.quotes.$inferSelect;
  product: typeof t.products.$inferSelect;
  region: typeof t.regions.$inferSelect;
};

async function createLine(ctx: Context, tx: Transaction, { order, quote, product, region }: Found, ordinal: number) {
  const { ports } = ctx;
  const now = ports.clock.now();
  // The period starts with the payment: a slow provisioning is not the calendar's concern.
  const startsAt = order.paidAt ?? now;
  const anchorDay = anchorDayOf(startsAt);
  const resourceId = makeId(ports, "res");
  const lineId = makeId(ports, "lin");
  await tx.db.insert(t.resources).values({
    id: resourceId,
    orderId: order.id,
    ordinal,
    userId: order.userId,
    groupId: order.groupId,
    kind: "line",
    state: "creating",
    startsAt,
    endsAt: addMonths(startsAt, quote.months, anchorDay),
    anchorDay,
    createdAt: now,
  });
  await tx.db.insert(t.lines).values({
    id: lineId,
    userId: order.userId,
    resourceId,
    sourceRegionId: region.sourceRegionId ?? region.id,
    destinationRegionId: region.id,
    lineType: product.lineType,
    state: "provisioning",
    createdAt: now,
  });
  await tx.db
    .insert(t.lineServiceTypes)
    .values(order.serviceTypeIds.map((serviceTypeId) => ({ lineId, serviceTypeId })));
  await tx.db
    .insert(t.provisionSteps)
    .values(t.PROVISION_STEPS.map((step) => ({ lineId, step, state: "pending" as const, tries: 0, updatedAt: now })));
  await tx.job("line.provision", { lineId }, now, `line.provision/${lineId}`);
}
