import { and, desc, eq, isNotNull, isNull, lt, ne, not, or, type SQL, sql } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import * as t from "../../db/schema/index.ts";
import { HOST_STATES } from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { flagQuery, instantView, iso, type PageQuery, page, pageQuery, slugSchema } from "../views.ts";
import { presentHost, presentHosts } from "./present.ts";
import { isOnlineSql } from "./reach.ts";

/** One host. Throws `not_found`. */
export async function getHost(ctx: Context, id: Id<"hst">) {
  const db = ctx.ports.db.read;
  const [row] = await db.select().from(t.hosts).where(eq(t.hosts.id, id));
  if (row === undefined) throw new AppError("not_found");
  return presentHost(db, row, ctx.ports.clock.now());
}

export const hostQuery = pageQuery.extend({
  role: hostRoleSchema.optional(),
  regionId: slugSchema.optional(),
  /** As it is shown: a host that went silent is offline, whatever it was before. */
  state: z.enum(HOST_STATES).optional(),
  version: z.string().min(1).max(64).optional(),
  /** Has not applied its newest revision. */
  lagging: flagQuery.optional(),
  /** Items failed when it last applied its state. */
  failing: flagQuery.optional(),
});

/** What lags: let in, not retired, and behind its desired revision. */
export const IS_LAGGING = and(
  eq(t.hosts.approved, true),
  ne(t.hosts.state, "retired"),
  or(isNull(t.hosts.appliedRev), lt(t.hosts.appliedRev, t.hosts.desiredRev)),
) as SQL;
export const IS_FAILING = isNotNull(t.hosts.failingSince);

/** The state as it is shown, in SQL. */
export function shownState(now: number) {
  return sql<t.HostState>`CASE WHEN ${t.hosts.state} = 'online' AND NOT COALESCE(${isOnlineSql(now)}, 0) THEN 'offline' ELSE ${t.hosts.state} END`;
}

/** Hosts, newest first; those that the filters take. */
export async function listHosts(ctx: Context, query: z.infer<typeof hostQuery>) {
  const now = ctx.ports.clock.now();
  const db = ctx.ports.db.read;
  const { role, regionId, state, version, lagging, failing, cursor, limit } = query;
  const rows = await db
    .select()
    .from(t.hosts)
    .where(
      and(
        role && eq(t.hosts.role, role),
        regionId === undefined ? undefined : eq(t.hosts.regionId, regionId),
        state && eq(shownState(now), state),
        version === undefined ? undefined : eq(t.hosts.version, version),
        lagging === undefined ? undefined : lagging ? IS_LAGGING : not(IS_LAGGING),
        failing === undefined ? undefined : failing ? IS_FAILING : not(IS_FAILING),
        cursor === undefined ? undefined : lt(t.hosts.id, cursor as Id<"hst">),
      ),
    )
    .orderBy(desc(t.hosts.id))
    .limit(limit + 1);
  const { items, nextCursor } = page(rows, limit, (row) => row);
  return { items: await presentHosts(db, items, now), nextCursor };
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
