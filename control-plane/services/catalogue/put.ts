import { eq } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { fen, WHOLE_BPS } from "../../../shared/money.ts";
import * as t from "../../db/schema/index.ts";
import { LINE_TYPES } from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { checkLinesOf, type Whitelist } from "../hosts/whitelist-size.ts";
import { nameSchema, slugSchema, whitelistInput } from "../views.ts";
import { viewRow } from "./views.ts";

/** Operators put catalogue rows by id: made when absent, replaced when there. Each answers the row. */

export const productInput = z.object({
  name: nameSchema,
  lineType: z.enum(LINE_TYPES),
  onSale: z.boolean().default(true),
});

export async function putProduct(ctx: Context, id: string, input: z.infer<typeof productInput>) {
  return transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.products).where(eq(t.products.id, id));
    const row = { id, ...input, createdAt: before?.createdAt ?? ctx.ports.clock.now() };
    await tx.db.insert(t.products).values(row).onConflictDoUpdate({ target: t.products.id, set: input });
    await tx.audit("product.put", id, before ?? null, row);
    return viewRow(row);
  });
}

export const regionInput = z.object({
  name: nameSchema,
  saleable: z.boolean().default(true),
  sourceRegionId: slugSchema.nullable().default(null),
});

/** A region with a `sourceRegionId` is a destination whose lines board there. Throws `region_not_configured` for an unknown source. */
export async function putRegion(ctx: Context, id: string, input: z.infer<typeof regionInput>) {
  return transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.regions).where(eq(t.regions.id, id));
    if (input.sourceRegionId !== null) {
      const [source] = await tx.db.select().from(t.regions).where(eq(t.regions.id, input.sourceRegionId));
      if (source === undefined || source.id === id)
        throw new AppError("region_not_configured", `There is no source region ${input.sourceRegionId}.`);
    }
    const row = { id, ...input, createdAt: before?.createdAt ?? ctx.ports.clock.now() };
    await tx.db.insert(t.regions).values(row).onConflictDoUpdate({ target: t.regions.id, set: input });
    await tx.audit("region.put", id, before ?? null, row);
    return viewRow(row);
  });
}

const discountBps = z.number().int().min(0).max(WHOLE_BPS);

export const priceInput = z.object({
  monthlyFen: z.number().int().min(1).max(1_000_000_000),
  quarterDiscountBps: discountBps.default(0),
  halfYearDiscountBps: discountBps.default(0),
  yearDiscountBps: discountBps.default(0),
  onSale: z.boolean().default(true),
});

/** The id that a product's price in a region has. */
export function priceId(productId: string, regionId: string): string {
  return `products/${productId}/regions/${regionId}`;
}

/** Throws `not_found` when the product or the region is not in the catalogue. */
export async function putPrice(ctx: Context, productId: string, regionId: string, input: z.infer<typeof priceInput>) {
  return transaction(ctx, async (tx) => {
    const id = priceId(productId, regionId);
    const [product] = await tx.db.select().from(t.products).where(eq(t.products.id, productId));
    const [region] = await tx.db.select().from(t.regions).where(eq(t.regions.id, regionId));
    if (product === undefined || region === undefined) throw new AppError("not_found");
    const [before] = await tx.db.select().from(t.prices).where(eq(t.prices.id, id));
    const set = { ...input, monthlyFen: fen(input.monthlyFen) };
    const row = { id, productId, regionId, ...set, createdAt: before?.createdAt ?? ctx.ports.clock.now() };
    await tx.db.insert(t.prices).values(row).onConflictDoUpdate({ target: t.prices.id, set });
    await tx.audit("price.put", id, before ?? null, row);
    return viewRow(row);
  });
}

export const serviceTypeId = z.string().regex(/^[A-Z][A-Z0-9]{0,15}-[0-9]{1,4}$/, "must look like TK-1");

export const serviceTypeInput = z.object({
  name: nameSchema,
  ...whitelistInput,
});

/** Replaces a whitelist. The exits of every line that has it follow. Throws `whitelist_too_large` when one could not take it. */
export async function putServiceType(ctx: Context, id: string, input: z.infer<typeof serviceTypeInput>) {
  return transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.serviceTypes).where(eq(t.serviceTypes.id, id));
    await checkLinesOf(tx.db, id, input);
    const row = { id, ...input, createdAt: before?.createdAt ?? ctx.ports.clock.now() };
    await tx.db.insert(t.serviceTypes).values(row).onConflictDoUpdate({ target: t.serviceTypes.id, set: input });
    const exits = await tx.db
      .select({ hostId: t.lines.exitHostId })
      .from(t.lineServiceTypes)
      .innerJoin(t.lines, eq(t.lines.id, t.lineServiceTypes.lineId))
      .where(eq(t.lineServiceTypes.serviceTypeId, id));
    await tx.touchHosts(
      exits.flatMap(({ hostId }) => (hostId === null ? [] : [hostId])),
      `whitelist: service type ${id} changed (${changeInWords(before, row)})`,
    );
    await tx.audit("service_type.put", id, before ?? null, row);
    return viewRow(row);
  });
}

/** How many networks and names came and went, in words. */
export function changeInWords(before: Whitelist | undefined, after: Whitelist | undefined): string {
  const count = (of: keyof Whitelist, what: string) => {
    const [old, now] = [new Set(before?.[of]), new Set(after?.[of])];
    const added = [...now].filter((entry) => !old.has(entry)).length;
    const gone = [...old].filter((entry) => !now.has(entry)).length;
    return added + gone === 0 ? [] : [`${what} +${added} -${gone}`];
  };
  return [...count("cidrs", "networks"), ...count("domains", "names")].join(", ") || "same entries";
}
