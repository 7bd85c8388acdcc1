import { and, desc, eq, lt } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Context, visibleOwner } from "../context.ts";
import { type PageQuery, page } from "../views.ts";
import { viewOrder } from "./views.ts";

/** One order: the caller's, or anyone's for an operator. Throws `not_found`. */
export async function getOrder(ctx: Context, id: Id<"ord">) {
  const owner = visibleOwner(ctx);
  const [row] = await ctx.ports.db.read
    .select()
    .from(t.orders)
    .where(and(eq(t.orders.id, id), owner === undefined ? undefined : eq(t.orders.userId, owner)));
  if (row === undefined) throw new AppError("not_found");
  return viewOrder(row);
}

/** Orders, newest first. */
export async function listOrders(ctx: Context, query: PageQuery) {
  const owner = visibleOwner(ctx);
  const rows = await ctx.ports.db.read
    .select()
    .from(t.orders)
    .where(
      and(
        owner === undefined ? undefined : eq(t.orders.userId, owner),
        query.cursor === undefined ? undefined : lt(t.orders.id, query.cursor as Id<"ord">),
      ),
    )
    .orderBy(desc(t.orders.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, viewOrder);
}
