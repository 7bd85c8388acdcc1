import { sql } from "drizzle-orm";
import { AppError } from "../../shared/errors.ts";
import * as t from "../db/schema/index.ts";
import type { Context } from "./context.ts";

export type Limit = { key: string; limit: number; windowMs: number };

/**
 * Counts one use against each limit, in order, up to the first that is used up: then throws `rate_limited` with
 * `retryAfterMs`. Fixed windows in the database, so that every process counts together.
 */
export async function spend(ctx: Context, limits: readonly Limit[]): Promise<void> {
  const now = ctx.ports.clock.now();
  const wait = await ctx.ports.db.write(async (tx) => {
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
      // The first limit that is used up ends it: a refused use costs the limits behind it nothing, so that whoever is
      // slowed down by its own address can't use up what belongs to a name.
      if (row !== undefined && row.count > limit) return windowStart + windowMs - now;
    }
    return 0;
  });
  if (wait > 0) throw new AppError("rate_limited", undefined, { retryAfterMs: wait });
}
