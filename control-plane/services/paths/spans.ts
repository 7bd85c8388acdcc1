import { sql } from "drizzle-orm";
import { pathSeries as s } from "../../db/schema/index.ts";

/** Buckets of a segment's series: five rounds each at first, folded into hours when they are older than a week. */
export const SHORT_SPAN_MS = 5 * 60_000;
export const LONG_SPAN_MS = 3_600_000;
export const KEEP_SHORT_MS = 7 * 86_400_000;

/** What an upsert sets so that a row is added to the bucket that is there. */
export const ADD_UP = {
  rounds: sql`${s.rounds} + excluded.rounds`,
  sent: sql`${s.sent} + excluded.sent`,
  received: sql`${s.received} + excluded.received`,
  minUs: sql`MIN(COALESCE(${s.minUs}, excluded.min_us), COALESCE(excluded.min_us, ${s.minUs}))`,
  maxUs: sql`MAX(COALESCE(${s.maxUs}, excluded.max_us), COALESCE(excluded.max_us, ${s.maxUs}))`,
  answered: sql`${s.answered} + excluded.answered`,
  p50SumUs: sql`${s.p50SumUs} + excluded.p50_sum_us`,
};
