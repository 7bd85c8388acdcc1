import { and, eq, isNotNull } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, type Transaction, transaction } from "../../db/transaction.ts";
import { changeInWords } from "../catalogue/put.ts";
import type { Context } from "../context.ts";
import { checkWhitelist } from "../hosts/whitelist-size.ts";
import { whitelistInput } from "../views.ts";

export const accountWhitelistInput = z.object(whitelistInput);
export const accountWhitelistView = z.object({
  userId: idSchema("usr"),
  cidrs: z.array(z.string()),
  domains: z.array(z.string()),
});

/** An account's own whitelist, which replaces those of its lines' service types. Throws `not_found` when it has none. */
export async function getAccountWhitelist(ctx: Context, userId: Id<"usr">) {
  const [row] = await ctx.ports.db.read
    .select()
    .from(t.accountWhitelists)
    .where(eq(t.accountWhitelists.userId, userId));
  if (row === undefined) throw new AppError("not_found");
  return { userId, cidrs: row.cidrs, domains: row.domains };
}

/** Sets it; the exits of all the account's lines follow. Throws `not_found` for an account that is no customer, `whitelist_too_large`. */
export async function putAccountWhitelist(
  ctx: Context,
  userId: Id<"usr">,
  input: z.infer<typeof accountWhitelistInput>,
) {
  return transaction(ctx, async (tx) => {
    checkWhitelist([input], "the account's own list");
    const [user] = await tx.db.select().from(t.users).where(eq(t.users.id, userId));
    if (user === undefined || user.role !== "customer") throw new AppError("not_found");
    const [before] = await tx.db.select().from(t.accountWhitelists).where(eq(t.accountWhitelists.userId, userId));
    await tx.db
      .insert(t.accountWhitelists)
      .values({ userId, ...input })
      .onConflictDoUpdate({ target: t.accountWhitelists.userId, set: input });
    await touchExits(tx, userId, `whitelist: the account's own list changed (${changeInWords(before, input)})`);
    await tx.audit("account_whitelist.put", userId, before ?? null, input);
    return { userId, ...input };
  });
}

/** Takes it away: the lines' service types count again. Throws `not_found`. */
export async function deleteAccountWhitelist(ctx: Context, userId: Id<"usr">): Promise<void> {
  await transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.accountWhitelists).where(eq(t.accountWhitelists.userId, userId));
    expectOne(
      await tx.db.delete(t.accountWhitelists).where(eq(t.accountWhitelists.userId, userId)),
      new AppError("not_found"),
    );
    await touchExits(tx, userId, "whitelist: the account's own list was taken away, its service types count again");
    await tx.audit("account_whitelist.delete", userId, before ?? null, null);
  });
}

async function touchExits(tx: Transaction, userId: Id<"usr">, change: string): Promise<void> {
  const rows = await tx.db
    .select({ hostId: t.lines.exitHostId })
    .from(t.lines)
    .where(and(eq(t.lines.userId, userId), isNotNull(t.lines.exitHostId)));
  await tx.touchHosts(
    rows.flatMap(({ hostId }) => (hostId === null ? [] : [hostId])),
    change,
  );
}
