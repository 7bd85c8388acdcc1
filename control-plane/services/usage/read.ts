import { and, asc, desc, eq, gte, lt } from "drizzle-orm";
import { z } from "zod";
import { businessDay, shiftDay } from "../../../shared/calendar.ts";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Context, visibleOwner } from "../context.ts";
import { usageDayView } from "../lines/views.ts";
import { iso } from "../views.ts";

type Day = z.infer<typeof usageDayView>;

/** How long a line's use is kept, in days of the business calendar. */
export const USAGE_KEEP_DAYS = 400;
/** How many days are answered when the caller names no first one. */
const DEFAULT_DAYS = 30;

const day = z.iso.date();
/** Days in +08:00: the first, and the one after the last (tomorrow by default). */
export const usageQuery = z.object({ from: day.optional(), to: day.optional() });
export const usageView = z.object({ from: day, to: day, items: z.array(usageDayView) });

const nothing = (day: string): Day => ({ day, upBytes: 0, downBytes: 0, deniedPackets: 0, deniedNames: 0 });

/**
 * What a line used, every day from `from` up to but not `to`, oldest first. Throws `not_found`, and `validation_failed`
 * for an interval that is empty or longer than usage is kept.
 */
export async function readUsage(
  ctx: Context,
  lineId: Id<"lin">,
  query: z.infer<typeof usageQuery>,
): Promise<z.infer<typeof usageView>> {
  const owner = visibleOwner(ctx);
  const db = ctx.ports.db.read;
  const [line] = await db
    .select({ id: t.lines.id })
    .from(t.lines)
    .where(and(eq(t.lines.id, lineId), owner === undefined ? undefined : eq(t.lines.userId, owner)));
  if (line === undefined) throw new AppError("not_found");
  const to = query.to ?? shiftDay(businessDay(ctx.ports.clock.now()), 1);
  const from = query.from ?? shiftDay(to, -DEFAULT_DAYS);
  if (from >= to || shiftDay(from, USAGE_KEEP_DAYS) < to)
    throw new AppError("validation_failed", `An interval is 1 to ${USAGE_KEEP_DAYS} days long.`, {
      issues: [{ path: "from", message: "must be before to, and not too long before it" }],
    });
  const rows = await db
    .select()
    .from(t.lineUsage)
    .where(and(eq(t.lineUsage.lineId, lineId), gte(t.lineUsage.day, from), lt(t.lineUsage.day, to)))
    .orderBy(asc(t.lineUsage.day));
  const known = new Map(rows.map(({ lineId: _, ...rest }) => [rest.day, rest]));
  const items: Day[] = [];
  for (let one = from; one < to; one = shiftDay(one, 1)) items.push(known.get(one) ?? nothing(one));
  return { from, to, items };
}

/** A line's use as it stands: its client, its open connection, today. The caller has checked whose line it is. */
export async function usageNow(ctx: Context, lineId: Id<"lin">) {
  const db = ctx.ports.db.read;
  const today = businessDay(ctx.ports.clock.now());
  const [newest] = await db
    .select({ lastHandshakeAt: t.connectionUsage.lastHandshakeAt })
    .from(t.connectionUsage)
    .where(and(eq(t.connectionUsage.lineId, lineId), gte(t.connectionUsage.lastHandshakeAt, 0)))
    .orderBy(desc(t.connectionUsage.connectionId))
    .limit(1);
  const [open] = await db
    .select({ connection: t.connections, usage: t.connectionUsage })
    .from(t.connections)
    .leftJoin(t.connectionUsage, eq(t.connectionUsage.connectionId, t.connections.id))
    .where(and(eq(t.connections.lineId, lineId), eq(t.connections.state, "active")));
  const [row] = await db
    .select()
    .from(t.lineUsage)
    .where(and(eq(t.lineUsage.lineId, lineId), eq(t.lineUsage.day, today)));
  const { lineId: _, ...used } = row ?? { lineId, ...nothing(today) };
  return {
    clientLastSeenAt: iso(newest?.lastHandshakeAt ?? null),
    connection:
      open === undefined
        ? null
        : {
            id: open.connection.id,
            openedAt: iso(open.connection.openedAt),
            upBytes: open.usage?.upBytes ?? 0,
            downBytes: open.usage?.downBytes ?? 0,
            lastHandshakeAt: iso(open.usage?.lastHandshakeAt ?? null),
            lastBytesAt: iso(open.usage?.lastBytesAt ?? null),
          },
    today: used,
  };
}
