import { eq } from "drizzle-orm";
import { z } from "zod";
import { canonicalSha256 } from "../../../shared/canonical.ts";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { CHARGE_TYPES } from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Db } from "../../ports/index.ts";
import { type Context, makeId, requireUser } from "../context.ts";
import { instantView, iso } from "../views.ts";
import { priceOrder } from "./price.ts";

export const MAX_QUANTITY = 50;

export const quoteInput = z.object({
  priceId: z
    .string()
    .regex(/^products\/[a-z0-9-]{1,48}\/regions\/[a-z0-9-]{1,48}$/, "must look like products/…/regions/…"),
  chargeType: z.enum(CHARGE_TYPES),
  periods: z.number().int().min(1).max(36),
  quantity: z.number().int().min(1).default(1),
});

export const quoteView = z.object({
  id: idSchema("quo"),
  priceId: z.string(),
  chargeType: z.enum(CHARGE_TYPES),
  periods: z.number().int(),
  quantity: z.number().int(),
  months: z.number().int(),
  lines: z.array(z.object({ label: z.string(), amountFen: z.number().int() })),
  totalFen: z.number().int(),
  basisHash: z.string(),
  expiresAt: instantView,
});

type Row = typeof t.quotes.$inferSelect;

function view(row: Row): z.infer<typeof quoteView> {
  const { id, priceId, chargeType, periods, quantity, months, lines, totalFen, basisHash } = row;
  return {
    id,
    priceId,
    chargeType,
    periods,
    quantity,
    months,
    lines,
    totalFen,
    basisHash,
    expiresAt: iso(row.expiresAt),
  };
}

/** A price for this account, kept with its breakdown for a while. Throws `price_not_found`, `quantity_out_of_range`. */
export async function createQuote(ctx: Context, input: z.infer<typeof quoteInput>) {
  const { userId } = requireUser(ctx);
  const { ports } = ctx;
  if (input.quantity > MAX_QUANTITY)
    throw new AppError("quantity_out_of_range", `At most ${MAX_QUANTITY} in one order.`);
  const { priced, basisHash } = await computeQuote(ports.db.read, userId, input);
  const now = ports.clock.now();
  const row: Row = {
    id: makeId(ports, "quo"),
    userId,
    ...input,
    ...priced,
    basisHash,
    createdAt: now,
    expiresAt: now + ports.settings.quoteLifetimeMs,
  };
  await transaction(ctx, async (tx) => {
    await tx.db.insert(t.quotes).values(row);
    await tx.audit("quote.create", row.id, null, { totalFen: row.totalFen, basisHash });
  });
  return view(row);
}

/**
 * Prices an input from the catalogue as of now. The hash covers everything the amount depends on: when it differs from a
 * quote's, the quote is stale. Throws `price_not_found`.
 */
export async function computeQuote(db: Db, userId: Id<"usr">, input: z.infer<typeof quoteInput>) {
  const [price] = await db.select().from(t.prices).where(eq(t.prices.id, input.priceId));
  if (price === undefined) throw new AppError("price_not_found");
  const priced = priceOrder(price, input);
  const { createdAt: _, onSale: __, ...basis } = price;
  return { priced, basisHash: await canonicalSha256({ userId, input, price: basis, total: priced.totalFen }) };
}

/** One of the caller's quotes. Throws `not_found`. */
export async function getQuote(ctx: Context, id: Id<"quo">) {
  const { userId } = requireUser(ctx);
  const [row] = await ctx.ports.db.read.select().from(t.quotes).where(eq(t.quotes.id, id));
  if (row === undefined || row.userId !== userId) throw new AppError("not_found");
  return view(row);
}
