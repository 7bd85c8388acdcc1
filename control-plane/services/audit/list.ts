import { and, desc, eq, lt } from "drizzle-orm";
import { z } from "zod";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { instantView, iso, type PageQuery, page } from "../views.ts";

export const auditView = z.object({
  id: idSchema("aud"),
  at: instantView,
  actor: z.string(),
  action: z.string(),
  subject: z.string(),
  before: z.unknown(),
  after: z.unknown(),
  requestId: z.string().nullable(),
});

/** Who did what, newest first; of one subject or actor when given. */
export async function listAudit(
  ctx: Context,
  query: PageQuery & { subject?: string | undefined; actor?: string | undefined },
) {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.auditLog)
    .where(
      and(
        query.subject === undefined ? undefined : eq(t.auditLog.subject, query.subject),
        query.actor === undefined ? undefined : eq(t.auditLog.actor, query.actor),
        query.cursor === undefined ? undefined : lt(t.auditLog.id, query.cursor as Id<"aud">),
      ),
    )
    .orderBy(desc(t.auditLog.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, (row) => ({ ...row, at: iso(row.at) }));
}
