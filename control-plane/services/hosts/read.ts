import { and, desc, eq, lt } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { instantView, iso, type PageQuery, page } from "../views.ts";
import { viewHost } from "./views.ts";

export async function getHost(ctx: Context, id: Id<"hst">) {
  const [row] = await ctx.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, id));
  if (row === undefined) throw new AppError("not_found");
  return viewHost(row, ctx.ports.clock.now());
}

export async function listHosts(ctx: Context, query: PageQuery) {
  const now = ctx.ports.clock.now();
  const rows = await ctx.ports.db.read
    .select()
    .from(t.hosts)
    .where(query.cursor === undefined ? undefined : lt(t.hosts.id, query.cursor as Id<"hst">))
    .orderBy(desc(t.hosts.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, (row) => viewHost(row, now));
}

export const hostEventView = z.object({
  id: z.string(),
  at: instantView,
  kind: z.string(),
  item: z.string().nullable(),
  detail: z.string(),
});

/** What happened on a host, newest first. Throws `not_found`. */
export async function listHostEvents(ctx: Context, hostId: Id<"hst">, query: PageQuery) {
  await getHost(ctx, hostId);
  const rows = await ctx.ports.db.read
    .select()
    .from(t.hostEvents)
    .where(
      and(
        eq(t.hostEvents.hostId, hostId),
        query.cursor === undefined ? undefined : lt(t.hostEvents.id, query.cursor as Id<"evt">),
      ),
    )
    .orderBy(desc(t.hostEvents.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, ({ id, at, kind, item, detail }) => ({ id, at: iso(at), kind, item, detail }));
}
