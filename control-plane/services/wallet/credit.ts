import { eq } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import { fen } from "../../../shared/money.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { transfer, walletBalance } from "./transfer.ts";

/** One credit by hand: at most a million yuan, so that a slip of the finger stays small. */
export const MAX_CREDIT_FEN = 100_000_000;

export const creditInput = z.object({
  amountFen: z.number().int().min(1).max(MAX_CREDIT_FEN),
  reason: z.string().trim().min(1).max(500),
});
export const creditView = z.object({ transferId: idSchema("trf"), balanceFen: z.number().int() });

/** An operator puts money into a customer's wallet, from the adjustment account. Throws `not_found`. */
export async function creditWallet(ctx: Context, userId: Id<"usr">, input: z.infer<typeof creditInput>) {
  return transaction(ctx, async (tx) => {
    const [user] = await tx.db.select().from(t.users).where(eq(t.users.id, userId));
    if (user === undefined || user.role !== "customer") throw new AppError("not_found");
    const cause = makeId(ctx.ports, "req");
    const transferId = await transfer(ctx, tx, {
      from: "adjustment",
      to: `wallet:${userId}`,
      amountFen: fen(input.amountFen),
      causeKey: `credit:${cause}`,
      note: input.reason,
    });
    const balanceFen = await walletBalance(tx, userId);
    await tx.audit("wallet.credit", userId, null, { transferId, ...input, balanceFen });
    return { transferId, balanceFen };
  });
}
