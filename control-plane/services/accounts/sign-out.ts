import { and, eq, isNull } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Context, requireUser } from "../context.ts";

/** Ends the session this request came with. An API token is not a session: `conflict`. */
export async function signOut(ctx: Context): Promise<void> {
  const user = requireUser(ctx);
  const { credential } = user;
  if (!credential.startsWith("ses_"))
    throw new AppError("conflict", "This request came with an API token; revoke that instead.");
  await transaction(ctx, async (tx) => {
    await tx.db
      .update(t.sessions)
      .set({ revokedAt: ctx.ports.clock.now() })
      .where(and(eq(t.sessions.id, credential as typeof t.sessions.$inferSelect.id), isNull(t.sessions.revokedAt)));
    await tx.audit("session.revoke", user.userId, null, { session: credential });
  });
}
