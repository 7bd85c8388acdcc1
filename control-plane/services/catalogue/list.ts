import { asc } from "drizzle-orm";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { viewRow } from "./views.ts";

/** All that is or was sold: products, regions, prices and the names of the whitelists. */
export async function readCatalogue(ctx: Context) {
  const db = ctx.ports.db.read;
  const [products, regions, prices, serviceTypes] = await Promise.all([
    db.select().from(t.products).orderBy(asc(t.products.id)),
    db.select().from(t.regions).orderBy(asc(t.regions.id)),
    db.select().from(t.prices).orderBy(asc(t.prices.id)),
    db
      .select({ id: t.serviceTypes.id, name: t.serviceTypes.name })
      .from(t.serviceTypes)
      .orderBy(asc(t.serviceTypes.id)),
  ]);
  return {
    products: products.map(viewRow),
    regions: regions.map(viewRow),
    prices: prices.map(viewRow),
    serviceTypes,
  };
}

/** A whitelist whole, for operators. */
export async function listServiceTypes(ctx: Context) {
  const rows = await ctx.ports.db.read.select().from(t.serviceTypes).orderBy(asc(t.serviceTypes.id));
  return { items: rows.map(viewRow) };
}
