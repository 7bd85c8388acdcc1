import { and, desc, eq, lt } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { CERTIFICATIONS } from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, requireUser } from "../context.ts";
import { type PageQuery, page } from "../views.ts";
import { viewUser } from "./views.ts";

/** The caller's own account. */
export async function getMe(ctx: Context) {
  const { userId, permissions } = requireUser(ctx);
  return { ...(await getUser(ctx, userId)), permissions: [...permissions] };
}

export async function getUser(ctx: Context, id: Id<"usr">) {
  const [row] = await ctx.ports.db.read.select().from(t.users).where(eq(t.users.id, id));
  if (row === undefined) throw new AppError("not_found");
  return viewUser(row);
}

/** Accounts, newest first; by exact name when one is given. */
export async function listUsers(ctx: Context, query: PageQuery & { name?: string | undefined }) {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.users)
    .where(
      and(
        query.cursor === undefined ? undefined : lt(t.users.id, query.cursor as Id<"usr">),
        query.name === undefined ? undefined : eq(t.users.name, query.name),
      ),
    )
    .orderBy(desc(t.users.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, viewUser);
}

export const certifyInput = z.object({ state: z.enum(CERTIFICATIONS), reason: z.string().trim().min(1).max(500) });

/** An operator sets the real-name certification of a customer. Throws `not_found`. */
export async function certifyUser(ctx: Context, id: Id<"usr">, input: z.infer<typeof certifyInput>) {
  return transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.users).where(eq(t.users.id, id));
    if (before === undefined || before.role !== "customer") throw new AppError("not_found");
    expectOne(
      await tx.db.update(t.users).set({ certification: input.state }).where(eq(t.users.id, id)),
      new AppError("not_found"),
    );
    await tx.audit("user.certify", id, { state: before.certification }, input);
    return viewUser({ ...before, certification: input.state });
  });
}
