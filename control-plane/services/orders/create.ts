import { and, eq, inArray } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { isUniqueViolation, type Transaction, transaction } from "../../db/transaction.ts";
import { serviceTypeId } from "../catalogue/put.ts";
import { type Context, makeId, requireUser } from "../context.ts";
import { checkWhitelist } from "../hosts/whitelist-size.ts";
import { computeQuote, MAX_QUANTITY } from "../quotes/create.ts";
import { viewOrder } from "./views.ts";

export const createOrderInput = z.object({
  quoteId: idSchema("quo"),
  serviceTypeIds: z.array(serviceTypeId).min(1).max(16),
  groupId: idSchema("grp").optional(),
});

/**
 * Orders what a quote priced, and arms the order's timeout. The checks run in the order of the business rules, each with
 * its own code. An order charges exactly its quote's total, or is refused with `quote_stale`; a quote makes one order.
 */
export async function createOrder(ctx: Context, input: z.infer<typeof createOrderInput>) {
  const user = requireUser(ctx);
  const { ports } = ctx;
  const now = ports.clock.now();
  try {
    return await transaction(ctx, async (tx) => {
      const [account] = await tx.db.select().from(t.users).where(eq(t.users.id, user.userId));
      if (account === undefined || account.state !== "active") throw new AppError("account_disabled");
      if (account.ownerId !== null) throw new AppError("sub_account_may_not_order");
      if (account.certification !== "passed") throw new AppError("not_certified");
      const [quote] = await tx.db
        .select()
        .from(t.quotes)
        .where(and(eq(t.quotes.id, input.quoteId), eq(t.quotes.userId, user.userId)));
      if (quote === undefined) throw new AppError("not_found", "There is no such quote.");
      await checkOnSale(tx, quote.priceId);
      const groupId = await findGroup(tx, user.userId, input.groupId);
      if (quote.quantity > MAX_QUANTITY) throw new AppError("quantity_out_of_range");
      const serviceTypeIds = [...new Set(input.serviceTypeIds)];
      const known = await tx.db.select().from(t.serviceTypes).where(inArray(t.serviceTypes.id, serviceTypeIds));
      if (known.length !== serviceTypeIds.length) throw new AppError("service_type_not_found");
      checkWhitelist(known, serviceTypeIds.join(", "));
      const { priceId, chargeType, periods, quantity } = quote;
      const { basisHash } = await computeQuote(tx.db, user.userId, { priceId, chargeType, periods, quantity });
      if (quote.expiresAt <= now || basisHash !== quote.basisHash) throw new AppError("quote_stale");

      const row: typeof t.orders.$inferSelect = {
        id: makeId(ports, "ord"),
        userId: user.userId,
        kind: "create",
        state: "pending",
        quoteId: quote.id,
        groupId,
        serviceTypeIds,
        quantity,
        amountFen: quote.totalFen,
        createdAt: now,
        payBy: now + ports.settings.orderPayTimeoutMs,
        paidAt: null,
        endedAt: null,
      };
      await tx.db.insert(t.orders).values(row);
      await tx.job("order.timeout", { orderId: row.id }, row.payBy, `order.timeout/${row.id}`);
      await tx.audit("order.create", row.id, null, viewOrder(row));
      return viewOrder(row);
    });
  } catch (error) {
    if (isUniqueViolation(error, "orders.quote_id"))
      throw new AppError("quote_stale", "This quote was ordered before.");
    throw error;
  }
}

async function checkOnSale(tx: Transaction, priceId: string): Promise<void> {
  const [row] = await tx.db
    .select({ price: t.prices, product: t.products, region: t.regions })
    .from(t.prices)
    .innerJoin(t.products, eq(t.products.id, t.prices.productId))
    .innerJoin(t.regions, eq(t.regions.id, t.prices.regionId))
    .where(eq(t.prices.id, priceId));
  if (row === undefined) throw new AppError("price_not_found");
  if (!row.product.onSale) throw new AppError("product_off_sale");
  if (!row.region.saleable || !row.price.onSale) throw new AppError("region_off_sale");
  if (row.region.sourceRegionId === null) throw new AppError("region_not_configured");
}

async function findGroup(tx: Transaction, userId: Id<"usr">, groupId: Id<"grp"> | undefined): Promise<Id<"grp">> {
  const [group] = await tx.db
    .select()
    .from(t.groups)
    .where(
      and(eq(t.groups.userId, userId), groupId === undefined ? eq(t.groups.name, "default") : eq(t.groups.id, groupId)),
    );
  if (group === undefined) throw new AppError("group_not_found");
  return group.id;
}
