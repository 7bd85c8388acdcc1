import { and, desc, eq, isNull } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, makeId, requireUser } from "../context.ts";
import { freshToken } from "../secrets.ts";
import { instantView, iso, nameSchema } from "../views.ts";

export const lineTokenInput = z.object({ name: nameSchema.default("token") });
export const lineTokenView = z.object({
  id: idSchema("ltk"),
  lineId: idSchema("lin"),
  name: z.string(),
  prefix: z.string(),
  createdAt: instantView,
});

function view(row: typeof t.lineTokens.$inferSelect): z.infer<typeof lineTokenView> {
  const { id, lineId, name, prefix } = row;
  return { id, lineId, name, prefix, createdAt: iso(row.createdAt) };
}

async function requireOwnLine(ctx: Context, lineId: Id<"lin">): Promise<void> {
  const { userId } = requireUser(ctx);
  const [line] = await ctx.ports.db.read
    .select({ id: t.lines.id })
    .from(t.lines)
    .where(and(eq(t.lines.id, lineId), eq(t.lines.userId, userId)));
  if (line === undefined) throw new AppError("not_found");
}

/** A secret with which a client opens connections on this line; shown in this answer only. Throws `not_found`. */
export async function createLineToken(ctx: Context, lineId: Id<"lin">, input: z.infer<typeof lineTokenInput>) {
  await requireOwnLine(ctx, lineId);
  const { token, hash, prefix } = await freshToken(ctx.ports, "line");
  const row: typeof t.lineTokens.$inferSelect = {
    id: makeId(ctx.ports, "ltk"),
    lineId,
    name: input.name,
    prefix,
    tokenHash: hash,
    createdAt: ctx.ports.clock.now(),
    revokedAt: null,
  };
  await transaction(ctx, async (tx) => {
    await tx.db.insert(t.lineTokens).values(row);
    await tx.audit("line_token.create", row.id, null, view(row));
  });
  return { ...view(row), token };
}

/** The line's tokens that are not revoked, newest first. Throws `not_found`. */
export async function listLineTokens(ctx: Context, lineId: Id<"lin">) {
  await requireOwnLine(ctx, lineId);
  const rows = await ctx.ports.db.read
    .select()
    .from(t.lineTokens)
    .where(and(eq(t.lineTokens.lineId, lineId), isNull(t.lineTokens.revokedAt)))
    .orderBy(desc(t.lineTokens.id))
    .limit(200);
  return { items: rows.map(view) };
}

/** Revokes a token; connections opened with it go on. Throws `not_found`. */
export async function revokeLineToken(ctx: Context, lineId: Id<"lin">, tokenId: Id<"ltk">): Promise<void> {
  await requireOwnLine(ctx, lineId);
  await transaction(ctx, async (tx) => {
    expectOne(
      await tx.db
        .update(t.lineTokens)
        .set({ revokedAt: ctx.ports.clock.now() })
        .where(and(eq(t.lineTokens.id, tokenId), eq(t.lineTokens.lineId, lineId), isNull(t.lineTokens.revokedAt))),
      new AppError("not_found"),
    );
    await tx.audit("line_token.revoke", tokenId, null, null);
  });
}
