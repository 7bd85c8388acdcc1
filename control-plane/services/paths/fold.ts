import { sql } from "drizzle-orm";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { ADD_UP, KEEP_SHORT_MS, LONG_SPAN_MS, SHORT_SPAN_MS } from "./spans.ts";

/**
 * Folds short buckets that are old enough into hours, at most so many a transaction: sums add up, least and most stay what
 * they were. Answers whether none is left.
 */
export async function foldSeries(ctx: Context, batch: number, mostBatches: number): Promise<boolean> {
  // Whole hours only, so that none is folded while it still grows.
  const before = ctx.ports.clock.now() - KEEP_SHORT_MS;
  const until = before - (before % LONG_SPAN_MS);
  for (let i = 0; i < mostBatches; i++) if ((await foldSome(ctx, until, batch)) < batch) return true;
  return false;
}

async function foldSome(ctx: Context, until: number, batch: number): Promise<number> {
  const chosen = sql`SELECT rowid FROM path_series WHERE span = ${SHORT_SPAN_MS} AND bucket < ${until} ORDER BY bucket, rowid LIMIT ${batch}`;
  return transaction(ctx, async (tx) => {
    // Two statements however many rows: a fleet makes some hundred thousand an hour, and over HTTP each statement is a round trip.
    await tx.db.all(sql`
      INSERT INTO path_series
        (host_id, target, span, bucket, rounds, sent, received, min_us, max_us, answered, p50_sum_us)
      SELECT host_id, target, ${LONG_SPAN_MS}, bucket - bucket % ${LONG_SPAN_MS}, SUM(rounds), SUM(sent), SUM(received),
        MIN(min_us), MAX(max_us), SUM(answered), SUM(p50_sum_us)
      FROM path_series WHERE rowid IN (${chosen}) GROUP BY 1, 2, 4
      ON CONFLICT (host_id, target, span, bucket) DO UPDATE SET
        rounds = ${ADD_UP.rounds}, sent = ${ADD_UP.sent}, received = ${ADD_UP.received}, min_us = ${ADD_UP.minUs},
        max_us = ${ADD_UP.maxUs}, answered = ${ADD_UP.answered}, p50_sum_us = ${ADD_UP.p50SumUs}`);
    const { rowsAffected } = await tx.db.delete(t.pathSeries).where(sql`rowid IN (${chosen})`);
    return rowsAffected;
  });
}
