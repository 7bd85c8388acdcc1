import { and, desc, eq, lt } from "drizzle-orm";
import { z } from "zod";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Context, requireUser } from "../context.ts";
import { instantView, iso, type PageQuery, page } from "../views.ts";
import { walletBalance } from "./transfer.ts";

export const walletView = z.object({ balanceFen: z.number().int() });
export const walletEntryView = z.object({
  id: idSchema("ent"),
  amountFen: z.number().int(),
  cause: z.string(),
  note: z.string(),
  at: instantView,
});

/** The caller's wallet, or, for an operator, that of the customer named. */
export async function readWallet(ctx: Context, of?: Id<"usr">) {
  const userId = of ?? requireUser(ctx).userId;
  return { balanceFen: await walletBalance({ db: ctx.ports.db.read }, userId) };
}

/** Its entries, newest first. Positive came in, negative went out. */
export async function listWalletEntries(ctx: Context, query: PageQuery, of?: Id<"usr">) {
  const userId = of ?? requireUser(ctx).userId;
  const rows = await ctx.ports.db.read
    .select({ id: t.ledgerEntries.id, entry: t.ledgerEntries, transfer: t.transfers })
    .from(t.ledgerEntries)
    .innerJoin(t.transfers, eq(t.transfers.id, t.ledgerEntries.transferId))
    .where(
      and(
        eq(t.ledgerEntries.accountId, `wallet:${userId}`),
        query.cursor === undefined ? undefined : lt(t.ledgerEntries.id, query.cursor as Id<"ent">),
      ),
    )
    .orderBy(desc(t.ledgerEntries.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, ({ entry, transfer }) => ({
    id: entry.id,
    amountFen: entry.amountFen,
    cause: transfer.causeKey,
    note: transfer.note,
    at: iso(entry.createdAt),
  }));
}
