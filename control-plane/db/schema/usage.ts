import { index, integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { flag, id, instant } from "./columns.ts";
import { hosts } from "./hosts.ts";
import { connections, lines } from "./lines.ts";

const count = () => integer().notNull().default(0);

/**
 * How much of each count of a host is in the tables below already. Figures of one count only grow, so an observation
 * that is repeated, late or older than another adds nothing twice.
 */
export const usageMeters = sqliteTable(
  "usage_meters",
  {
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    /** The host's own name of the count; see `usage` of an observation. */
    life: text().notNull(),
    /** Of a peer: bytes received and sent by the exit. Otherwise of a whitelist: packets and names refused. */
    ofPeer: flag().notNull(),
    first: count(),
    second: count(),
    /** When it last grew, or stood still and was told of: to the hour. */
    observedAt: instant().notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.life, t.hostId] }),
    index("usage_meters_observed").on(t.observedAt),
    index("usage_meters_of_host").on(t.hostId),
  ],
);

/** What one connection's client did so far. */
export const connectionUsage = sqliteTable(
  "connection_usage",
  {
    connectionId: id("con")
      .primaryKey()
      .references(() => connections.id),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    /** From the client, and to it. */
    upBytes: count(),
    downBytes: count(),
    lastHandshakeAt: instant(),
    lastBytesAt: instant(),
  },
  (t) => [index("connection_usage_line").on(t.lineId, t.connectionId)],
);

/** What one line did on one day of the business calendar. */
export const lineUsage = sqliteTable(
  "line_usage",
  {
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    /** `2026-11-22`, in +08:00. */
    day: text().notNull(),
    upBytes: count(),
    downBytes: count(),
    deniedPackets: count(),
    deniedNames: count(),
  },
  (t) => [primaryKey({ columns: [t.lineId, t.day] }), index("line_usage_day").on(t.day)],
);
