import { desc, eq } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { idSchema } from "../../../shared/ids.ts";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { freshToken } from "../secrets.ts";
import { instantView, iso, slugSchema } from "../views.ts";

export const enrolmentTokenInput = z.object({
  role: hostRoleSchema,
  regionId: slugSchema,
  maxUses: z.number().int().min(1).max(1000).default(1),
  expiresInS: z
    .number()
    .int()
    .min(60)
    .max(30 * 86_400)
    .default(3600),
});

export const enrolmentTokenView = z.object({
  id: idSchema("enr"),
  prefix: z.string(),
  role: hostRoleSchema,
  regionId: z.string(),
  maxUses: z.number().int(),
  used: z.number().int(),
  createdAt: instantView,
  expiresAt: instantView,
});

function view(row: typeof t.enrolmentTokens.$inferSelect): z.infer<typeof enrolmentTokenView> {
  const { id, prefix, role, regionId, maxUses, used } = row;
  return { id, prefix, role, regionId, maxUses, used, createdAt: iso(row.createdAt), expiresAt: iso(row.expiresAt) };
}

/** A token with which hosts of one role and region enrol; the secret is in this answer only. Throws `region_not_configured`. */
export async function createEnrolmentToken(ctx: Context, input: z.infer<typeof enrolmentTokenInput>) {
  const { ports } = ctx;
  const { token, hash, prefix } = await freshToken(ports, "enr");
  const now = ports.clock.now();
  const row: typeof t.enrolmentTokens.$inferSelect = {
    id: makeId(ports, "enr"),
    tokenHash: hash,
    prefix,
    role: input.role,
    regionId: input.regionId,
    maxUses: input.maxUses,
    used: 0,
    createdAt: now,
    expiresAt: now + input.expiresInS * 1000,
  };
  await transaction(ctx, async (tx) => {
    const [region] = await tx.db.select().from(t.regions).where(eq(t.regions.id, input.regionId));
    if (region === undefined) throw new AppError("region_not_configured", `There is no region ${input.regionId}.`);
    await tx.db.insert(t.enrolmentTokens).values(row);
    await tx.audit("enrolment_token.create", row.id, null, view(row));
  });
  return { ...view(row), token };
}

export async function listEnrolmentTokens(ctx: Context) {
  const rows = await ctx.ports.db.read.select().from(t.enrolmentTokens).orderBy(desc(t.enrolmentTokens.id)).limit(200);
  return { items: rows.map(view) };
}
