import { and, desc, eq, lt } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Context, visibleOwner } from "../context.ts";
import { type PageQuery, page } from "../views.ts";
import { viewConnection } from "./views.ts";

/** A connection the caller may use: of its line token's line, its own, or any for a user who is no customer. Throws `not_found`. */
export async function requireConnection(ctx: Context, id: Id<"con">): Promise<typeof t.connections.$inferSelect> {
  const { actor } = ctx;
  const [row] = await ctx.ports.db.read
    .select({ connection: t.connections, userId: t.lines.userId })
    .from(t.connections)
    .innerJoin(t.lines, eq(t.lines.id, t.connections.lineId))
    .where(eq(t.connections.id, id));
  const owner = actor.kind === "line" ? undefined : visibleOwner(ctx);
  const mine =
    row !== undefined &&
    (actor.kind === "line" ? row.connection.lineId === actor.lineId : owner === undefined || row.userId === owner);
  if (!mine) throw new AppError("not_found");
  return row.connection;
}

/** A line's connections, newest first. Throws `not_found`. */
export async function listConnections(ctx: Context, lineId: Id<"lin">, query: PageQuery) {
  const owner = visibleOwner(ctx);
  const [line] = await ctx.ports.db.read
    .select({ id: t.lines.id })
    .from(t.lines)
    .where(and(eq(t.lines.id, lineId), owner === undefined ? undefined : eq(t.lines.userId, owner)));
  if (line === undefined) throw new AppError("not_found");
  const rows = await ctx.ports.db.read
    .select()
    .from(t.connections)
    .where(
      and(
        eq(t.connections.lineId, lineId),
        query.cursor === undefined ? undefined : lt(t.connections.id, query.cursor as Id<"con">),
      ),
    )
    .orderBy(desc(t.connections.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, viewConnection);
}
