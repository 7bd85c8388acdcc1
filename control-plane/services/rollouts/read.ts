import { and, asc, desc, eq, gt, lt } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { type PageQuery, page } from "../views.ts";
import { countHosts, requireRollout } from "./rows.ts";
import { viewRollout, viewRolloutHost } from "./views.ts";

/** Throws `not_found`. */
export async function getRollout(ctx: Context, id: Id<"rol">) {
  const db = ctx.ports.db.read;
  return viewRollout(await requireRollout(db, id), await countHosts(db, id));
}

export async function listRollouts(ctx: Context, query: PageQuery) {
  const db = ctx.ports.db.read;
  const rows = await db
    .select()
    .from(t.rollouts)
    .where(query.cursor === undefined ? undefined : lt(t.rollouts.id, query.cursor as Id<"rol">))
    .orderBy(desc(t.rollouts.id))
    .limit(query.limit + 1);
  const views = await Promise.all(rows.map(async (row) => viewRollout(row, await countHosts(db, row.id))));
  return page(views, query.limit, (view) => view);
}

/** The hosts of a rollout, by id. Throws `not_found`. */
export async function listRolloutHosts(ctx: Context, id: Id<"rol">, query: PageQuery) {
  const db = ctx.ports.db.read;
  await requireRollout(db, id);
  const rows = await db
    .select()
    .from(t.rolloutHosts)
    .where(
      and(
        eq(t.rolloutHosts.rolloutId, id),
        query.cursor === undefined ? undefined : gt(t.rolloutHosts.hostId, query.cursor as Id<"hst">),
      ),
    )
    .orderBy(asc(t.rolloutHosts.hostId))
    .limit(query.limit + 1);
  return page(
    rows.map((row) => ({ ...row, id: row.hostId })),
    query.limit,
    viewRolloutHost,
  );
}
