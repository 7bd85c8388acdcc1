import { index, integer, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import { fenColumn, id, instant, json } from "./columns.ts";

export const ROLES = ["customer", "support", "finance", "admin"] as const;
export type Role = (typeof ROLES)[number];
export const CERTIFICATIONS = ["none", "pending", "passed", "rejected"] as const;
export type Certification = (typeof CERTIFICATIONS)[number];

export const users = sqliteTable(
  "users",
  {
    id: id("usr").primaryKey(),
    /** Sign-in name. A sub-account's is `name@owner`. */
    name: text().notNull(),
    role: text({ enum: ROLES }).notNull(),
    state: text({ enum: ["active", "disabled"] }).notNull(),
    certification: text({ enum: CERTIFICATIONS }).notNull(),
    /** Set on a sub-account: the customer who owns it. */
    ownerId: id("usr"),
    /** Algorithm, parameters, salt and hash in one string. */
    passwordHash: text().notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("users_name").on(t.name)],
);

export const groups = sqliteTable(
  "groups",
  {
    id: id("grp").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    name: text().notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("groups_user_name").on(t.userId, t.name)],
);

export const sessions = sqliteTable(
  "sessions",
  {
    id: id("ses").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    tokenHash: text().notNull(),
    createdAt: instant().notNull(),
    expiresAt: instant().notNull(),
    revokedAt: instant(),
  },
  (t) => [uniqueIndex("sessions_token").on(t.tokenHash), index("sessions_user").on(t.userId)],
);

export const apiTokens = sqliteTable(
  "api_tokens",
  {
    id: id("tok").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    name: text().notNull(),
    /** The first characters, so that a leaked token can be found. */
    prefix: text().notNull(),
    tokenHash: text().notNull(),
    scopes: json<string[]>().notNull(),
    createdAt: instant().notNull(),
    expiresAt: instant(),
    revokedAt: instant(),
  },
  (t) => [uniqueIndex("api_tokens_token").on(t.tokenHash), index("api_tokens_user").on(t.userId)],
);

/** Fixed windows of the limits at the door: sign-ins, opens, captures. One row a key, overwritten window by window. */
export const rateWindows = sqliteTable("rate_windows", {
  key: text().primaryKey(),
  windowStart: instant().notNull(),
  count: integer().notNull(),
});

/** Requests that carried an Idempotency-Key. `response` is set in the transaction of the change it answers. */
export const idempotencyKeys = sqliteTable(
  "idempotency_keys",
  {
    userId: id("usr").notNull(),
    key: text().notNull(),
    /** SHA-256 of method, path and body. */
    requestHash: text().notNull(),
    /** Until when the request may run before another may take the key over. */
    leaseUntil: instant().notNull(),
    status: integer(),
    response: text(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("idempotency_keys_key").on(t.userId, t.key)],
);

/** Append only: triggers refuse update and delete. */
export const auditLog = sqliteTable(
  "audit_log",
  {
    id: id("aud").primaryKey(),
    at: instant().notNull(),
    actor: text().notNull(),
    action: text().notNull(),
    subject: text().notNull(),
    before: json<unknown>(),
    after: json<unknown>(),
    requestId: text(),
  },
  (t) => [index("audit_subject").on(t.subject), index("audit_actor").on(t.actor)],
);

export const ledgerAccounts = sqliteTable("ledger_accounts", {
  /** `wallet:<user>`, `gateway:<channel>`, `revenue`, `suspense`, `adjustment`, `rebate:<partner>`. */
  id: text().primaryKey(),
  /** Σ of the account's entries, kept by a trigger. A wallet's may not go below zero (a trigger too). */
  balanceFen: fenColumn().notNull(),
});

/** A transfer closes its entries: a trigger refuses it unless there are at least two and they sum to zero. */
export const transfers = sqliteTable(
  "transfers",
  {
    id: id("trf").primaryKey(),
    /** Names the cause, `order:<id>:charge`; unique, so a cause moves money once. */
    causeKey: text().notNull(),
    note: text().notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("transfers_cause").on(t.causeKey)],
);

export const ledgerEntries = sqliteTable(
  "ledger_entries",
  {
    id: id("ent").primaryKey(),
    transferId: id("trf").notNull(),
    accountId: text()
      .notNull()
      .references(() => ledgerAccounts.id),
    /** Positive raises the account's balance, negative lowers it. Never zero. */
    amountFen: fenColumn().notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [index("entries_account").on(t.accountId, t.id), index("entries_transfer").on(t.transferId)],
);
