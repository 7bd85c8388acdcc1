import { sql } from "drizzle-orm";
import { AppError } from "../../shared/errors.ts";
import * as t from "../db/schema/index.ts";
import type { Context } from "./context.ts";

export type Limit = { key: string; limit: number; windowMs: number };

/**
 * Counts one use against each limit. Throws `rate_limited` with `retryAfterMs` when one is used up; the use is counted all
 * the same. Fixed windows in the database, so that every process counts together.
 */
export async function spend(ctx: Context, limits: readonly Limit[]): Promise<void> {
  const now = ctx.ports.clock.now();
  const wait = await ctx.ports.db.write(async (tx) => {
    let longest = 0;
    for (const { key, limit, windowMs } of limits) {
      const windowStart = now - (now % windowMs);
      const [row] = await tx
        .insert(t.rateWindows)
        .values({ key, windowStart, count: 1 })
        .onConflictDoUpdate({
          target: t.rateWindows.key,
          set: {
            count: sql`CASE WHEN ${t.rateWindows.windowStart} = ${windowStart} THEN ${t.rateWindows.count} + 1 ELSE 1 END`,
            windowStart,
          },
        })
        .returning({ count: t.rateWindows.count });
      if (row !== undefined && row.count > limit) longest = Math.max(longest, windowStart + windowMs - now);
    }
    return longest;
  });
  if (wait > 0) throw new AppError("rate_limited", undefined, { retryAfterMs: wait });
}
