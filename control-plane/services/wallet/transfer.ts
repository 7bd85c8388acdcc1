import { eq } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { type Fen, negateFen } from "../../../shared/money.ts";
import * as t from "../../db/schema/index.ts";
import { isRefusedByTrigger, isUniqueViolation, type Transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";

export type LedgerAccount = `wallet:${Id<"usr">}` | `gateway:${string}` | "revenue" | "suspense" | "adjustment";

/**
 * Moves money from one ledger account to another, inside the caller's transaction. `causeKey` names why; a cause moves
 * money once. Throws `balance_too_low` when the wallet it leaves would go below zero (the database refuses it, and the whole
 * transaction with it), `conflict` when the cause has moved money before.
 */
export async function transfer(
  ctx: Context,
  tx: Transaction,
  move: { from: LedgerAccount; to: LedgerAccount; amountFen: Fen; causeKey: string; note: string },
): Promise<Id<"trf">> {
  const { ports } = ctx;
  if (move.amountFen <= 0) throw new RangeError("a transfer moves a positive amount");
  const now = ports.clock.now();
  const transferId = makeId(ports, "trf");
  const accounts = [move.from, move.to];
  await tx.db
    .insert(t.ledgerAccounts)
    .values(accounts.map((id) => ({ id, balanceFen: 0 as Fen })))
    .onConflictDoNothing();
  const entry = (accountId: string, amountFen: Fen) => ({
    id: makeId(ports, "ent"),
    transferId,
    accountId,
    amountFen,
    createdAt: now,
  });
  try {
    // Entries first: the transfer row closes them, and the database refuses it unless they sum to zero.
    await tx.db.insert(t.ledgerEntries).values(entry(move.from, negateFen(move.amountFen)));
    await tx.db.insert(t.ledgerEntries).values(entry(move.to, move.amountFen));
    await tx.db
      .insert(t.transfers)
      .values({ id: transferId, causeKey: move.causeKey, note: move.note, createdAt: now });
  } catch (error) {
    if (isRefusedByTrigger(error, "ledger: wallet below zero")) throw new AppError("balance_too_low");
    if (isUniqueViolation(error, "transfers.cause_key"))
      throw new AppError("conflict", "Money was moved for this cause before.");
    throw error;
  }
  return transferId;
}

/** A user's wallet balance. */
export async function walletBalance(tx: Pick<Transaction, "db">, userId: Id<"usr">): Promise<Fen> {
  const [row] = await tx.db
    .select()
    .from(t.ledgerAccounts)
    .where(eq(t.ledgerAccounts.id, `wallet:${userId}`));
  return row?.balanceFen ?? (0 as Fen);
}
