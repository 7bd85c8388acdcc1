import { sql } from "drizzle-orm";
import { index, integer, primaryKey, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import { groups, users } from "./accounts.ts";
import { fenColumn, flag, id, instant, json } from "./columns.ts";

export const LINE_TYPES = ["golden", "golden_plus", "silvery", "platinum"] as const;
export type LineType = (typeof LINE_TYPES)[number];
export const CHARGE_TYPES = ["month", "quarter", "half_year", "year"] as const;
export type ChargeType = (typeof CHARGE_TYPES)[number];

export const products = sqliteTable("products", {
  /** Reads like `path-golden`. */
  id: text().primaryKey(),
  name: text().notNull(),
  lineType: text({ enum: LINE_TYPES }).notNull(),
  onSale: flag().notNull(),
  createdAt: instant().notNull(),
});

export const regions = sqliteTable("regions", {
  /** Reads like `uae-dubai`. */
  id: text().primaryKey(),
  name: text().notNull(),
  saleable: flag().notNull(),
  /** Set on a destination: the source region its lines board in. A region without one is no destination. */
  sourceRegionId: text(),
  createdAt: instant().notNull(),
});

export const prices = sqliteTable(
  "prices",
  {
    /** `products/<product>/regions/<region>`. */
    id: text().primaryKey(),
    productId: text()
      .notNull()
      .references(() => products.id),
    regionId: text()
      .notNull()
      .references(() => regions.id),
    monthlyFen: fenColumn().notNull(),
    quarterDiscountBps: integer().notNull(),
    halfYearDiscountBps: integer().notNull(),
    yearDiscountBps: integer().notNull(),
    onSale: flag().notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("prices_product_region").on(t.productId, t.regionId)],
);

/** A named whitelist, such as TK-1. */
export const serviceTypes = sqliteTable("service_types", {
  id: text().primaryKey(),
  name: text().notNull(),
  cidrs: json<string[]>().notNull(),
  domains: json<string[]>().notNull(),
  createdAt: instant().notNull(),
});

/** One line of a price's breakdown, rounded once. */
export type QuoteLine = { label: string; amountFen: number };

export const quotes = sqliteTable(
  "quotes",
  {
    id: id("quo").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    priceId: text().notNull(),
    chargeType: text({ enum: CHARGE_TYPES }).notNull(),
    periods: integer().notNull(),
    quantity: integer().notNull(),
    /** Months one resource gets. */
    months: integer().notNull(),
    lines: json<QuoteLine[]>().notNull(),
    totalFen: fenColumn().notNull(),
    /** SHA-256 of all it was computed from. */
    basisHash: text().notNull(),
    createdAt: instant().notNull(),
    expiresAt: instant().notNull(),
  },
  (t) => [index("quotes_user").on(t.userId)],
);

export const ORDER_STATES = [
  "pending",
  "paid",
  "processing",
  "completed",
  "failed",
  "expired",
  "cancelled",
  "partly_refunded",
  "refunded",
] as const;
export type OrderState = (typeof ORDER_STATES)[number];

export const orders = sqliteTable(
  "orders",
  {
    id: id("ord").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    kind: text({ enum: ["create"] }).notNull(),
    state: text({ enum: ORDER_STATES }).notNull(),
    quoteId: id("quo")
      .notNull()
      .references(() => quotes.id),
    groupId: id("grp")
      .notNull()
      .references(() => groups.id),
    serviceTypeIds: json<string[]>().notNull(),
    quantity: integer().notNull(),
    amountFen: fenColumn().notNull(),
    createdAt: instant().notNull(),
    payBy: instant().notNull(),
    paidAt: instant(),
    endedAt: instant(),
  },
  (t) => [uniqueIndex("orders_quote").on(t.quoteId), index("orders_user").on(t.userId)],
);

export const payments = sqliteTable(
  "payments",
  {
    id: id("pay").primaryKey(),
    orderId: id("ord")
      .notNull()
      .references(() => orders.id),
    channel: text({ enum: ["balance"] }).notNull(),
    amountFen: fenColumn().notNull(),
    state: text({ enum: ["success"] }).notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("payments_order_channel").on(t.orderId, t.channel)],
);

export const RESOURCE_STATES = ["creating", "running", "create_failed", "expired", "deleted", "deleted_early"] as const;
export type ResourceState = (typeof RESOURCE_STATES)[number];

/** The thing an order creates and that expires. */
export const resources = sqliteTable(
  "resources",
  {
    id: id("res").primaryKey(),
    orderId: id("ord")
      .notNull()
      .references(() => orders.id),
    /** Which of the order's quantity, from 0. */
    ordinal: integer().notNull(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    groupId: id("grp")
      .notNull()
      .references(() => groups.id),
    kind: text({ enum: ["line"] }).notNull(),
    state: text({ enum: RESOURCE_STATES }).notNull(),
    startsAt: instant().notNull(),
    endsAt: instant().notNull(),
    /** The day of the month its periods keep, 1 to 31. */
    anchorDay: integer().notNull(),
    createdAt: instant().notNull(),
  },
  (t) => [uniqueIndex("resources_order_ordinal").on(t.orderId, t.ordinal), index("resources_user").on(t.userId)],
);

export const jobs = sqliteTable(
  "jobs",
  {
    id: id("job").primaryKey(),
    kind: text().notNull(),
    payload: json<unknown>().notNull(),
    runAt: instant().notNull(),
    /** Names the cause; the same job is inserted once. */
    dedupeKey: text().notNull(),
    state: text({ enum: ["waiting", "running", "done", "dead"] }).notNull(),
    attempts: integer().notNull(),
    /** How often in a row its worker was gone before the lease ran out: a job that kills its process is given up. */
    losses: integer().notNull().default(0),
    /** While running: whose turn it is, and until when. A lease that ran out is another's to take. */
    leaseToken: text(),
    leaseUntil: instant(),
    lastError: text(),
    createdAt: instant().notNull(),
    finishedAt: instant(),
  },
  (t) => [
    uniqueIndex("jobs_dedupe").on(t.dedupeKey),
    index("jobs_due").on(t.runAt).where(sql`state = 'waiting'`),
    index("jobs_leased").on(t.leaseUntil).where(sql`state = 'running'`),
  ],
);

export const lineServiceTypes = sqliteTable(
  "line_service_types",
  {
    lineId: id("lin").notNull(),
    serviceTypeId: text()
      .notNull()
      .references(() => serviceTypes.id),
  },
  (t) => [primaryKey({ columns: [t.lineId, t.serviceTypeId] }), index("line_service_types_type").on(t.serviceTypeId)],
);
