import { and, eq, isNull, ne } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, requireUser } from "../context.ts";
import { spend } from "../rate-limit.ts";
import { passwordSchema } from "./create-user.ts";

export const changePasswordInput = z.object({ current: z.string().min(1).max(256), next: passwordSchema });

/** Changes the own password and ends every other session. Throws `bad_credentials` when the current one is wrong. */
export async function changePassword(ctx: Context, input: z.infer<typeof changePasswordInput>): Promise<void> {
  const { userId, credential } = requireUser(ctx);
  const { ports } = ctx;
  // Whoever holds a session may not use it to guess the password.
  await spend(ctx, [{ key: `password:${userId}`, limit: ports.settings.signInLimit, windowMs: 15 * 60_000 }]);
  const [user] = await ports.db.read.select().from(t.users).where(eq(t.users.id, userId));
  if (user === undefined || !(await ports.passwords.verify(input.current, user.passwordHash)))
    throw new AppError("bad_credentials");
  const passwordHash = await ports.passwords.hash(input.next);
  await transaction(ctx, async (tx) => {
    expectOne(
      await tx.db
        .update(t.users)
        .set({ passwordHash })
        .where(and(eq(t.users.id, userId), eq(t.users.passwordHash, user.passwordHash))),
      new AppError("conflict", "The password was changed meanwhile."),
    );
    await tx.db
      .update(t.sessions)
      .set({ revokedAt: ports.clock.now() })
      .where(
        and(
          eq(t.sessions.userId, userId),
          isNull(t.sessions.revokedAt),
          ne(t.sessions.id, credential as typeof t.sessions.$inferSelect.id),
        ),
      );
    await tx.audit("user.password", userId, null, null);
  });
}
