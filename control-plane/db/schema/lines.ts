import { sql } from "drizzle-orm";
import { index, integer, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import { users } from "./accounts.ts";
import { id, instant, json } from "./columns.ts";
import { hosts, pairs } from "./hosts.ts";
import { LINE_TYPES, resources } from "./orders.ts";

export const LINE_STATES = ["provisioning", "active", "off", "failed", "deleted"] as const;
export type LineState = (typeof LINE_STATES)[number];

export const lines = sqliteTable(
  "lines",
  {
    id: id("lin").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    resourceId: id("res")
      .notNull()
      .references(() => resources.id),
    sourceRegionId: text().notNull(),
    destinationRegionId: text().notNull(),
    lineType: text({ enum: LINE_TYPES }).notNull(),
    state: text({ enum: LINE_STATES }).notNull(),
    exitHostId: id("hst").references(() => hosts.id),
    eip: text(),
    /** Of its tunnel, both ends; null is what every tunnel has. */
    mtu: integer(),
    createdAt: instant().notNull(),
  },
  (t) => [
    uniqueIndex("lines_resource").on(t.resourceId),
    // An exit serves one line: this makes taking one from the pool a race that only one order wins.
    uniqueIndex("lines_exit").on(t.exitHostId).where(sql`state <> 'deleted' AND exit_host_id IS NOT NULL`),
    index("lines_user").on(t.userId),
  ],
);

/** An account's own whitelist: replaces those of its lines' service types. */
export const accountWhitelists = sqliteTable("account_whitelists", {
  userId: id("usr")
    .primaryKey()
    .references(() => users.id),
  cidrs: json<string[]>().notNull(),
  domains: json<string[]>().notNull(),
});

export const PROVISION_STEPS = [
  "take_exit",
  "get_address",
  "bind_address",
  "await_link",
  "apply_state",
  "activate",
] as const;
export type ProvisionStep = (typeof PROVISION_STEPS)[number];

/** The provisioning saga of a line, a row a step. */
export const provisionSteps = sqliteTable(
  "provision_steps",
  {
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    step: text({ enum: PROVISION_STEPS }).notNull(),
    state: text({ enum: ["pending", "done", "failed", "undone"] }).notNull(),
    tries: integer().notNull(),
    lastError: text(),
    updatedAt: instant().notNull(),
  },
  (t) => [uniqueIndex("provision_steps_line_step").on(t.lineId, t.step)],
);

export const lineTokens = sqliteTable(
  "line_tokens",
  {
    id: id("ltk").primaryKey(),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    name: text().notNull(),
    prefix: text().notNull(),
    tokenHash: text().notNull(),
    createdAt: instant().notNull(),
    revokedAt: instant(),
  },
  (t) => [uniqueIndex("line_tokens_token").on(t.tokenHash), index("line_tokens_line").on(t.lineId)],
);

export const CLOSE_REASONS = ["closed", "replaced", "expired", "forward_silent"] as const;
export type CloseReason = (typeof CLOSE_REASONS)[number];

export const connections = sqliteTable(
  "connections",
  {
    id: id("con").primaryKey(),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    pairId: id("par")
      .notNull()
      .references(() => pairs.id),
    forwardHostId: id("hst").notNull(),
    exitHostId: id("hst").notNull(),
    port: integer().notNull(),
    clientPublicKey: text().notNull(),
    state: text({ enum: ["active", "closed"] }).notNull(),
    /** The hosts hold this connection once they have applied these revisions. */
    forwardRev: integer().notNull(),
    exitRev: integer().notNull(),
    openedAt: instant().notNull(),
    closedAt: instant(),
    closeReason: text({ enum: CLOSE_REASONS }),
  },
  (t) => [
    // These two make it impossible that two connections share a port or a line.
    uniqueIndex("connections_port").on(t.forwardHostId, t.port).where(sql`state = 'active'`),
    uniqueIndex("connections_line").on(t.lineId).where(sql`state = 'active'`),
    index("connections_recent").on(t.forwardHostId, t.closedAt),
    index("connections_by_line").on(t.lineId, t.id),
    // Whose usage a peer's is.
    index("connections_by_peer").on(t.exitHostId, t.clientPublicKey, t.id),
  ],
);
