import { and, desc, eq, inArray, lt } from "drizzle-orm";
import { z } from "zod";
import type { Id, IdPrefix } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { instantView, iso } from "../views.ts";
import { getHost } from "./read.ts";

const common = { id: z.string(), at: instantView };

/** One entry of a host's log. */
export const hostLogView = z.discriminatedUnion("type", [
  /** Its desired state changed: by whom, because of what, and when the host had applied it. */
  z.object({
    ...common,
    type: z.literal("revision"),
    rev: z.number().int(),
    actor: z.string(),
    requestId: z.string().nullable(),
    causes: z.array(z.object({ action: z.string(), subject: z.string() })),
    changes: z.array(z.string()),
    /** Null as long as the host has not said so. `failed`: items that it could not apply at first. */
    applied: z.object({ at: instantView, tookMs: z.number().int(), failed: z.array(z.string()) }).nullable(),
  }),
  /** Something happened on it or to its link: drift repaired, an item failed, link up or down, an alarm. */
  z.object({
    ...common,
    type: z.literal("event"),
    kind: z.string(),
    item: z.string().nullable(),
    detail: z.string(),
  }),
  /** An operator did something with the host that changed no state of it. */
  z.object({
    ...common,
    type: z.literal("action"),
    action: z.string(),
    actor: z.string(),
    requestId: z.string().nullable(),
    before: z.unknown(),
    after: z.unknown(),
  }),
]);
type Entry = z.infer<typeof hostLogView>;

export const hostLogQuery = z.object({
  limit: z.coerce.number().int().min(1).max(200).default(50),
  cursor: z
    .string()
    .regex(/^[0-9a-hjkmnp-tv-z]{26}$/, "must be the nextCursor of the page before")
    .optional(),
});

/** Actions on a host that raise no revision: the others stand in the log as their revision's cause. */
const WITHOUT_REVISION = ["host.enrol", "host.draining", "host.online"];

/**
 * Why a host is as it is, newest first: its revisions with their causes and acknowledgements, what happened on it, and what
 * operators did with it. Ids of all kinds end in the same time-ordered body: that is the order, and the cursor.
 * Throws `not_found`.
 */
export async function readHostLog(ctx: Context, hostId: Id<"hst">, query: z.infer<typeof hostLogQuery>) {
  await getHost(ctx, hostId);
  const { limit, cursor } = query;
  const entries = (
    await Promise.all([
      revisions(ctx, hostId, limit + 1, cursor),
      events(ctx, hostId, limit + 1, cursor),
      actions(ctx, hostId, limit + 1, cursor),
    ])
  )
    .flat()
    .sort((a, b) => (bodyOf(a.id) < bodyOf(b.id) ? 1 : -1));
  const items = entries.slice(0, limit);
  const last = items.at(-1);
  return { items, nextCursor: entries.length > limit && last !== undefined ? bodyOf(last.id) : null };
}

function bodyOf(id: string): string {
  return id.slice(id.indexOf("_") + 1);
}

function idBefore<P extends IdPrefix>(prefix: P, cursor: string): Id<P> {
  return `${prefix}_${cursor}`;
}

async function revisions(ctx: Context, hostId: Id<"hst">, limit: number, cursor?: string): Promise<Entry[]> {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.hostRevisions)
    .where(
      and(
        eq(t.hostRevisions.hostId, hostId),
        cursor === undefined ? undefined : lt(t.hostRevisions.id, idBefore("rev", cursor)),
      ),
    )
    .orderBy(desc(t.hostRevisions.id))
    .limit(limit);
  return rows.map(({ id, at, rev, actor, requestId, causes, changes, appliedAt, failed }) => ({
    id,
    at: iso(at),
    type: "revision",
    rev,
    actor,
    requestId,
    causes,
    changes,
    applied: appliedAt === null ? null : { at: iso(appliedAt), tookMs: appliedAt - at, failed: failed ?? [] },
  }));
}

async function events(ctx: Context, hostId: Id<"hst">, limit: number, cursor?: string): Promise<Entry[]> {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.hostEvents)
    .where(
      and(
        eq(t.hostEvents.hostId, hostId),
        cursor === undefined ? undefined : lt(t.hostEvents.id, idBefore("evt", cursor)),
      ),
    )
    .orderBy(desc(t.hostEvents.id))
    .limit(limit);
  return rows.map(({ id, at, kind, item, detail }) => ({ id, at: iso(at), type: "event", kind, item, detail }));
}

async function actions(ctx: Context, hostId: Id<"hst">, limit: number, cursor?: string): Promise<Entry[]> {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.auditLog)
    .where(
      and(
        eq(t.auditLog.subject, hostId),
        inArray(t.auditLog.action, WITHOUT_REVISION),
        cursor === undefined ? undefined : lt(t.auditLog.id, idBefore("aud", cursor)),
      ),
    )
    .orderBy(desc(t.auditLog.id))
    .limit(limit);
  return rows.map(({ id, at, action, actor, requestId, before, after }) => ({
    id,
    at: iso(at),
    type: "action",
    action,
    actor,
    requestId,
    before,
    after,
  }));
}
