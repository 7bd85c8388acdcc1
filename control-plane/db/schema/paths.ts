import { sql } from "drizzle-orm";
import { index, integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { id, instant } from "./columns.ts";
import { hosts } from "./hosts.ts";

export const PATH_STATES = ["unknown", "good", "degraded"] as const;

/** A segment of the path as its near end probes it: one row a host and address it sends to. */
export const pathSegments = sqliteTable(
  "path_segments",
  {
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    target: text().notNull(),
    /** The host at the far end; null where it is the exit's own gateway. */
    toHostId: id("hst"),
    state: text({ enum: PATH_STATES }).notNull(),
    /** Rounds in a row that say the opposite of the state. */
    against: integer().notNull(),
    baselineUs: integer(),
    /** Since when it is in this state. */
    since: instant().notNull(),
    lastAt: instant().notNull(),
    lastSent: integer().notNull(),
    lastReceived: integer().notNull(),
    lastP50Us: integer(),
  },
  (t) => [
    primaryKey({ columns: [t.hostId, t.target] }),
    index("path_segments_degraded").on(t.hostId).where(sql`state = 'degraded'`),
  ],
);

/** What probes of a segment came to, summed over a bucket of time: short ones for days, an hour's for months. */
export const pathSeries = sqliteTable(
  "path_series",
  {
    hostId: id("hst").notNull(),
    target: text().notNull(),
    /** How long the bucket is, ms. */
    span: integer().notNull(),
    bucket: instant().notNull(),
    rounds: integer().notNull(),
    sent: integer().notNull(),
    received: integer().notNull(),
    minUs: integer(),
    maxUs: integer(),
    /** Of the rounds that were answered: their number, and the sum of their medians. */
    answered: integer().notNull(),
    p50SumUs: integer().notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.hostId, t.target, t.span, t.bucket] }),
    index("path_series_age").on(t.span, t.bucket),
  ],
);
