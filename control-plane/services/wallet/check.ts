import { sql } from "drizzle-orm";
import type { Db } from "../../ports/index.ts";

export type LedgerFault = { what: "account" | "transfer" | "wallet"; id: string; detail: string };

/** Recomputes the ledger from its entries and answers what does not add up; an empty list is a sound ledger. */
export async function checkLedger(db: Db): Promise<LedgerFault[]> {
  const accounts = await db.all<{ id: string; balance: number; sum: number }>(sql`
    SELECT a.id AS id, a.balance_fen AS balance, COALESCE(SUM(e.amount_fen), 0) AS sum
    FROM ledger_accounts a LEFT JOIN ledger_entries e ON e.account_id = a.id GROUP BY a.id`);
  const transfers = await db.all<{ id: string; sum: number; closed: number }>(sql`
    SELECT e.transfer_id AS id, SUM(e.amount_fen) AS sum, COUNT(t.id) AS closed
    FROM ledger_entries e LEFT JOIN transfers t ON t.id = e.transfer_id GROUP BY e.transfer_id`);
  return [
    ...accounts
      .filter((a) => a.balance !== a.sum)
      .map((a) => ({ what: "account" as const, id: a.id, detail: `balance ${a.balance}, entries ${a.sum}` })),
    ...accounts
      .filter((a) => a.id.startsWith("wallet:") && a.sum < 0)
      .map((a) => ({ what: "wallet" as const, id: a.id, detail: `below zero: ${a.sum}` })),
    ...transfers
      .filter((row) => row.sum !== 0 || row.closed === 0)
      .map((row) => ({ what: "transfer" as const, id: row.id, detail: `sum ${row.sum}, closed ${row.closed > 0}` })),
  ];
}
