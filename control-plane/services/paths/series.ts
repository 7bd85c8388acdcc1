import { and, asc, eq, gte, inArray } from "drizzle-orm";
import { z } from "zod";
import type { Id } from "../../../shared/ids.ts";
import { ipv4Schema } from "../../../shared/protocol/values.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { requireHost } from "../hosts/life.ts";
import { instantView, iso } from "../views.ts";
import { toMs } from "./read.ts";
import { LONG_SPAN_MS, SHORT_SPAN_MS } from "./spans.ts";

export const pathSeriesQuery = z.object({
  target: ipv4Schema,
  /** How far back, h. Up to a week in buckets of five minutes, beyond in hours. */
  hours: z.coerce
    .number()
    .int()
    .min(1)
    .max(90 * 24)
    .default(24),
});

export const pathSeriesView = z.object({
  items: z.array(
    z.object({
      at: instantView,
      spanMs: z.number().int(),
      rounds: z.number().int(),
      sent: z.number().int(),
      received: z.number().int(),
      lossPct: z.number(),
      minMs: z.number().nullable(),
      /** Mean of the rounds' medians. */
      medianMs: z.number().nullable(),
      maxMs: z.number().nullable(),
    }),
  ),
});

/**
 * A segment's series, oldest first: median, and least and most for the smoke around it. Empty for one never probed.
 * Throws `not_found`.
 */
export async function readPathSeries(
  ctx: Context,
  hostId: Id<"hst">,
  { target, hours }: z.infer<typeof pathSeriesQuery>,
): Promise<z.infer<typeof pathSeriesView>> {
  await requireHost({ db: ctx.ports.db.read }, hostId);
  const s = t.pathSeries;
  const rows = await ctx.ports.db.read
    .select()
    .from(s)
    .where(
      and(
        eq(s.hostId, hostId),
        eq(s.target, target),
        inArray(s.span, [SHORT_SPAN_MS, LONG_SPAN_MS]),
        gte(s.bucket, ctx.ports.clock.now() - hours * 3_600_000),
      ),
    )
    .orderBy(asc(s.bucket));
  return {
    items: rows.map(({ bucket, span, rounds, sent, received, minUs, maxUs, answered, p50SumUs }) => ({
      at: iso(bucket),
      spanMs: span,
      rounds,
      sent,
      received,
      lossPct: sent === 0 ? 0 : Math.round(((sent - received) / sent) * 1000) / 10,
      minMs: toMs(minUs),
      medianMs: answered === 0 ? null : toMs(Math.round(p50SumUs / answered)),
      maxMs: toMs(maxUs),
    })),
  };
}
