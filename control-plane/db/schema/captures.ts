import { sql } from "drizzle-orm";
import { index, integer, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import { id, instant } from "./columns.ts";
import { lines } from "./lines.ts";

export const CAPTURE_STATES = ["running", "done", "failed", "deleted"] as const;

export const captures = sqliteTable(
  "captures",
  {
    id: id("cap").primaryKey(),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    hostId: id("hst").notNull(),
    forwardHostId: id("hst").notNull(),
    point: text({ enum: ["tunnel", "outside"] }).notNull(),
    filter: text().notNull(),
    reason: text().notNull(),
    seconds: integer().notNull(),
    maxBytes: integer().notNull(),
    maxPackets: integer(),
    snapLength: integer().notNull(),
    state: text({ enum: CAPTURE_STATES }).notNull(),
    /** Hash of the one-time token the forward host uploads with. */
    uploadTokenHash: text().notNull(),
    stopReason: text(),
    error: text(),
    interface: text(),
    packets: integer(),
    receivedByFilter: integer(),
    droppedByKernel: integer(),
    clockOffsetMs: integer(),
    size: integer(),
    sha256: text(),
    requestedBy: id("usr").notNull(),
    createdAt: instant().notNull(),
    /** An operator ended it early. */
    stoppedAt: instant(),
    endedAt: instant(),
    deleteAt: instant().notNull(),
  },
  (t) => [
    uniqueIndex("captures_one_per_host").on(t.hostId).where(sql`state = 'running'`),
    uniqueIndex("captures_upload").on(t.uploadTokenHash),
    index("captures_line").on(t.lineId),
  ],
);
