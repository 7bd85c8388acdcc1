import { and, asc, countDistinct, eq, gt, inArray } from "drizzle-orm";
import { z } from "zod";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { PATH_STATES } from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { instantView, iso } from "../views.ts";

/** A segment not probed for so long is none any more; with very many next hops their turn comes every half hour. */
const CURRENT_MS = 3_600_000;

export const segmentView = z.object({
  target: z.string(),
  /** The host at the far end; null where it is the exit's own gateway. */
  toHostId: idSchema("hst").nullable(),
  /** `unknown`: it has never answered, which says nothing about the path. */
  state: z.enum(PATH_STATES),
  since: instantView,
  last: z.object({
    at: instantView,
    sent: z.number().int(),
    received: z.number().int(),
    lossPct: z.number(),
    p50Ms: z.number().nullable(),
  }),
});
type SegmentView = z.infer<typeof segmentView>;
/** A host's own part of the path: the segments it sends to. */
export const pathView = z.object({ state: z.enum(PATH_STATES), segments: z.array(segmentView) });
export type PathView = z.infer<typeof pathView>;

/** The segments that hosts probe now, by the probing host. */
export async function readPaths(db: Db, ids: readonly Id<"hst">[], now: number): Promise<Map<Id<"hst">, PathView>> {
  if (ids.length === 0) return new Map();
  const rows = await db
    .select()
    .from(t.pathSegments)
    .where(and(inArray(t.pathSegments.hostId, [...ids]), gt(t.pathSegments.lastAt, now - CURRENT_MS)))
    .orderBy(asc(t.pathSegments.target));
  const segments = new Map<Id<"hst">, SegmentView[]>();
  for (const row of rows) segments.set(row.hostId, [...(segments.get(row.hostId) ?? []), viewSegment(row)]);
  return new Map([...segments].map(([id, of]) => [id, { state: worst(of), segments: of }]));
}

/** How many hosts have a segment that is degraded now. */
export async function countDegraded(db: Db, now: number): Promise<number> {
  const [row] = await db
    .select({ n: countDistinct(t.pathSegments.hostId) })
    .from(t.pathSegments)
    .where(and(eq(t.pathSegments.state, "degraded"), gt(t.pathSegments.lastAt, now - CURRENT_MS)));
  return row?.n ?? 0;
}

/** One bad segment makes a path bad; it is good when one is known to be and none is bad. */
function worst(segments: readonly SegmentView[]): PathView["state"] {
  const states = segments.map(({ state }) => state);
  return states.find((state) => state === "degraded") ?? states.find((state) => state === "good") ?? "unknown";
}

function viewSegment(row: typeof t.pathSegments.$inferSelect): SegmentView {
  const { target, toHostId, state, since, lastAt, lastSent, lastReceived, lastP50Us } = row;
  const lossPct = lastSent === 0 ? 0 : Math.round(((lastSent - lastReceived) / lastSent) * 1000) / 10;
  const last = { at: iso(lastAt), sent: lastSent, received: lastReceived, lossPct, p50Ms: toMs(lastP50Us) };
  return { target, toHostId, state, since: iso(since), last };
}

export function toMs(us: number | null): number | null {
  return us === null ? null : us / 1000;
}
