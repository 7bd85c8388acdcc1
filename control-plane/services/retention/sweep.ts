import { type SQL, sql } from "drizzle-orm";
import type { SQLiteTable } from "drizzle-orm/sqlite-core";
import { businessDay, shiftDay } from "../../../shared/calendar.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Ports } from "../../ports/index.ts";
import { type Context, systemContext } from "../context.ts";
import { foldSeries } from "../paths/fold.ts";
import { USAGE_KEEP_DAYS } from "../usage/read.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** How often what is old is looked for; and how soon again when there was more than one sweep takes. */
export const SWEEP_EVERY_MS = HOUR_MS;
export const SWEEP_ON_MS = 5_000;

/** How long an answer to an Idempotency-Key is kept, and so for how long a request may be repeated. */
export const IDEMPOTENCY_KEEP_MS = 7 * DAY_MS;

/**
 * What is kept for how long. Audit rows and the ledger are kept for ever (the database refuses to delete them), and dead
 * letters until an operator has run them again.
 */
const KEEP: readonly { table: SQLiteTable; old: (now: number) => SQL }[] = [
  { table: t.hostEvents, old: (now) => sql`at < ${now - 90 * DAY_MS}` },
  // One that was never applied is what a host lags since.
  { table: t.hostRevisions, old: (now) => sql`at < ${now - 90 * DAY_MS} AND applied_at IS NOT NULL` },
  // The longest window is an hour. Anyone who can reach us makes these rows: they must not pile up.
  { table: t.rateWindows, old: (now) => sql`window_start < ${now - 2 * HOUR_MS}` },
  {
    table: t.idempotencyKeys,
    old: (now) => sql`created_at < ${now - IDEMPOTENCY_KEEP_MS} AND lease_until < ${now}`,
  },
  { table: t.jobs, old: (now) => sql`state = 'done' AND finished_at < ${now - 30 * DAY_MS}` },
  { table: t.sessions, old: (now) => sql`expires_at < ${now - 30 * DAY_MS}` },
  {
    table: t.quotes,
    old: (now) =>
      sql`expires_at < ${now - 30 * DAY_MS} AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.quote_id = quotes.id)`,
  },
  { table: t.pathSegments, old: (now) => sql`last_at < ${now - 7 * DAY_MS}` },
  { table: t.lineUsage, old: (now) => sql`day < ${shiftDay(businessDay(now), -USAGE_KEEP_DAYS)}` },
  // Its host tells of it no more: what stands still and is told of is noted as told.
  { table: t.usageMeters, old: (now) => sql`observed_at < ${now - USAGE_KEEP_DAYS * DAY_MS}` },
  { table: t.pathSeries, old: (now) => sql`bucket < ${now - 90 * DAY_MS}` },
];

/** Rows a transaction deletes at most, and transactions a table gets a sweep: others must not wait long for the writer. */
const BATCH = 500;
const MOST_BATCHES = 40;
/** Rows of path series that a transaction folds at most. */
const FOLDED = 5000;

/** Deletes what has been kept long enough, in small transactions. Answers whether all of it is gone. */
export async function sweep(ctx: Context): Promise<boolean> {
  const now = ctx.ports.clock.now();
  let all = true;
  for (const { table, old } of KEEP) {
    let deleted = BATCH;
    for (let i = 0; i < MOST_BATCHES && deleted === BATCH; i++)
      deleted = await transaction(ctx, async (tx) => {
        const { rowsAffected } = await tx.db
          .delete(table)
          .where(sql`rowid IN (SELECT rowid FROM ${table} WHERE ${old(now)} LIMIT ${BATCH})`);
        return rowsAffected;
      });
    all &&= deleted < BATCH;
  }
  // Last, as what it reads was said by hosts: should it fail, the tables above are swept all the same.
  return (await foldSeries(ctx, FOLDED, MOST_BATCHES)) && all;
}

/** Puts the sweep into the outbox, once for the life of the database. */
export async function armSweep(ports: Ports): Promise<void> {
  await transaction(systemContext(ports, "start"), (tx) =>
    tx.job("retention.sweep", {}, ports.clock.now(), "retention.sweep"),
  );
}
