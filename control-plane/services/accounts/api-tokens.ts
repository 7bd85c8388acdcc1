import { and, desc, eq, isNull } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, makeId, requireUser } from "../context.ts";
import { ALL_PERMISSIONS, type Permission } from "../permissions.ts";
import { freshToken } from "../secrets.ts";
import { instantView, iso, nameSchema } from "../views.ts";

export const createApiTokenInput = z.object({
  name: nameSchema,
  scopes: z
    .array(z.enum(ALL_PERMISSIONS as [Permission, ...Permission[]]))
    .min(1)
    .max(64),
  expiresAt: z.iso.datetime().optional(),
});

export const apiTokenView = z.object({
  id: idSchema("tok"),
  name: z.string(),
  prefix: z.string(),
  scopes: z.array(z.string()),
  createdAt: instantView,
  expiresAt: instantView.nullable(),
});

function view(row: typeof t.apiTokens.$inferSelect): z.infer<typeof apiTokenView> {
  const { id, name, prefix, scopes } = row;
  return { id, name, prefix, scopes, createdAt: iso(row.createdAt), expiresAt: iso(row.expiresAt) };
}

/** A named token with a part of the caller's permissions; the secret is in this answer only. Throws `forbidden` for a scope not held. */
export async function createApiToken(ctx: Context, input: z.infer<typeof createApiTokenInput>) {
  const user = requireUser(ctx);
  const { ports } = ctx;
  // A token that made tokens could outlive its own end.
  if (user.credential.startsWith("tok_")) throw new AppError("forbidden", "API tokens are made by a signed-in user.");
  const missing = input.scopes.filter((scope) => !user.permissions.has(scope));
  if (missing.length > 0) throw new AppError("forbidden", `You do not hold: ${missing.join(", ")}.`);
  const now = ports.clock.now();
  const expiresAt = input.expiresAt === undefined ? null : Date.parse(input.expiresAt);
  if (expiresAt !== null && expiresAt <= now)
    throw new AppError("validation_failed", "expiresAt is in the past", {
      issues: [{ path: "expiresAt", message: "is in the past" }],
    });
  const { token, hash, prefix } = await freshToken(ports, "api");
  const row: typeof t.apiTokens.$inferSelect = {
    id: makeId(ports, "tok"),
    userId: user.userId,
    name: input.name,
    prefix,
    tokenHash: hash,
    scopes: [...new Set(input.scopes)],
    createdAt: now,
    expiresAt,
    revokedAt: null,
  };
  await transaction(ctx, async (tx) => {
    await tx.db.insert(t.apiTokens).values(row);
    await tx.audit("api_token.create", row.id, null, view(row));
  });
  return { ...view(row), token };
}

/** The caller's tokens that are not revoked, newest first. */
export async function listApiTokens(ctx: Context) {
  const { userId } = requireUser(ctx);
  const rows = await ctx.ports.db.read
    .select()
    .from(t.apiTokens)
    .where(and(eq(t.apiTokens.userId, userId), isNull(t.apiTokens.revokedAt)))
    .orderBy(desc(t.apiTokens.id))
    .limit(200);
  return { items: rows.map(view) };
}

/** Revokes one of the caller's tokens. Throws `not_found`. */
export async function revokeApiToken(ctx: Context, id: Id<"tok">): Promise<void> {
  const { userId } = requireUser(ctx);
  await transaction(ctx, async (tx) => {
    expectOne(
      await tx.db
        .update(t.apiTokens)
        .set({ revokedAt: ctx.ports.clock.now() })
        .where(and(eq(t.apiTokens.id, id), eq(t.apiTokens.userId, userId), isNull(t.apiTokens.revokedAt))),
      new AppError("not_found"),
    );
    await tx.audit("api_token.revoke", id, null, null);
  });
}
