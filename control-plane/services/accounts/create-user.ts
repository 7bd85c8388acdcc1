import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import { ROLES } from "../../db/schema/index.ts";
import { isUniqueViolation, type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { viewUser } from "./views.ts";

export const passwordSchema = z.string().min(10).max(256);

export const createUserInput = z.object({
  // `@` is kept for sub-accounts (`name@owner`).
  name: z
    .string()
    // One spelling a name: two accounts that differ in case only are a trap for people.
    .toLowerCase()
    .regex(/^[a-z0-9][a-z0-9._-]{1,63}$/, "must be 2 to 64 letters, digits, dots, dashes, underscores"),
  password: passwordSchema,
  role: z.enum(ROLES).default("customer"),
});

/** An administrator makes an account, with its default group. Throws `name_taken`. */
export async function createUser(ctx: Context, input: z.infer<typeof createUserInput>) {
  const passwordHash = await ctx.ports.passwords.hash(input.password);
  try {
    return await transaction(ctx, async (tx) => viewUser(await insertUser(ctx, tx, { ...input, passwordHash })));
  } catch (error) {
    if (isUniqueViolation(error, "users.name")) throw new AppError("name_taken");
    throw error;
  }
}

/** The rows of a new account. */
export async function insertUser(
  ctx: Context,
  tx: Transaction,
  input: { name: string; role: (typeof ROLES)[number]; passwordHash: string },
): Promise<typeof t.users.$inferSelect> {
  const now = ctx.ports.clock.now();
  const row: typeof t.users.$inferSelect = {
    id: makeId(ctx.ports, "usr"),
    name: input.name,
    role: input.role,
    state: "active",
    certification: "none",
    ownerId: null,
    passwordHash: input.passwordHash,
    createdAt: now,
  };
  await tx.db.insert(t.users).values(row);
  if (input.role === "customer")
    await tx.db
      .insert(t.groups)
      .values({ id: makeId(ctx.ports, "grp"), userId: row.id, name: "default", createdAt: now });
  await tx.audit("user.create", row.id, null, viewUser(row));
  return row;
}
