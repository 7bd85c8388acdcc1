import { and, asc, eq, lt } from "drizzle-orm";
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
  const s = t.pathSeries;
  return transaction(ctx, async (tx) => {
    const rows = await tx.db
      .select()
      .from(s)
      .where(and(eq(s.span, SHORT_SPAN_MS), lt(s.bucket, until)))
      .orderBy(asc(s.bucket))
      .limit(batch);
    for (const row of rows) {
      const { hostId, target, span, bucket } = row;
      const hour = { ...row, span: LONG_SPAN_MS, bucket: bucket - (bucket % LONG_SPAN_MS) };
      await tx.db
        .insert(s)
        .values(hour)
        .onConflictDoUpdate({ target: [s.hostId, s.target, s.span, s.bucket], set: ADD_UP });
      await tx.db
        .delete(s)
        .where(and(eq(s.hostId, hostId), eq(s.target, target), eq(s.span, span), eq(s.bucket, bucket)));
    }
    return rows.length;
  });
}
