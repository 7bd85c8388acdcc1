import { count, sql } from "drizzle-orm";
import type { SQLiteTable } from "drizzle-orm/sqlite-core";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Harness, openHarness } from "../../testing/harness.ts";
import { makeThings, type Things } from "../../testing/route-table.ts";
import { execute } from "../../testing/tables.ts";
import { systemOf } from "../../testing/world.ts";
import { observe } from "../hosts/report.ts";
import { LONG_SPAN_MS, SHORT_SPAN_MS } from "../paths/spans.ts";
import { spend } from "../rate-limit.ts";
import { armSweep, SWEEP_EVERY_MS, SWEEP_ON_MS, sweep } from "./sweep.ts";

const DAY = 86_400_000;
let h: Harness;
let things: Things;

beforeEach(async () => {
  h = await openHarness();
  things = await makeThings(h);
});
afterEach(() => h.close());

const size = async (table: SQLiteTable) => (await h.ports.db.read.select({ n: count() }).from(table))[0]?.n ?? 0;
async function advanceDays(days: number): Promise<void> {
  h.clock.advance(days * DAY);
  expect(await sweep(systemOf(h))).toBe(true);
}

test("each kind of row goes when its time is over, not before; the audit log and the ledger never", async () => {
  const host = things.ids.hostId as Id<"hst">;
  await observe(systemOf(h), host, 0, {}, [{ at: 0, kind: "drift_repaired", detail: "x" }]);
  await h.ports.db.write((tx) => tx.update(t.hostRevisions).set({ appliedAt: h.clock.now() }));
  const post = () => h.request("POST", "/quotes", things.bodies["POST /quotes"], { headers: things.owner.auth });
  await post();
  await h.request(
    "POST",
    `/users/${things.owner.id}/credits`,
    { amountFen: 100, reason: "for the test" },
    {
      headers: { ...things.admin.auth, "idempotency-key": "k" },
    },
  );
  expect(await size(t.idempotencyKeys)).toBe(1);
  const [events, revisions, audit, entries] = [
    await size(t.hostEvents),
    await size(t.hostRevisions),
    await size(t.auditLog),
    await size(t.ledgerEntries),
  ];
  expect(events).toBeGreaterThan(0);
  expect(revisions).toBeGreaterThan(3);
  const done = async () => (await h.ports.db.read.select().from(t.jobs)).filter((job) => job.state === "done").length;
  const others = async () => (await h.ports.db.read.select().from(t.jobs)).filter((job) => job.state !== "done").length;
  const [doneBefore, othersBefore] = [await done(), await others()];
  expect(doneBefore).toBeGreaterThan(0);
  expect(othersBefore).toBeGreaterThan(0);

  await advanceDays(7 - 1 / 1000);
  expect(await size(t.idempotencyKeys)).toBe(1);
  await advanceDays(1);
  expect(await size(t.idempotencyKeys)).toBe(0);
  expect([await done(), await size(t.quotes)]).toEqual([doneBefore, 3]);
  await advanceDays(24);
  // Quotes that were ordered stay with their orders.
  expect([await done(), await others(), await size(t.quotes)]).toEqual([0, othersBefore, 2]);
  expect([await size(t.hostEvents), await size(t.hostRevisions)]).toEqual([events, revisions]);
  await advanceDays(60);
  expect([await size(t.hostEvents), await size(t.hostRevisions), await size(t.sessions)]).toEqual([0, 0, 0]);
  expect([await size(t.auditLog), await size(t.ledgerEntries)]).toEqual([audit, entries]);
});

test("a revision that no host has applied stays: it is what the host lags since", async () => {
  await h.ports.db.write((tx) => tx.update(t.hostRevisions).set({ appliedAt: null }));
  const revisions = await size(t.hostRevisions);
  await advanceDays(1000);
  expect(await size(t.hostRevisions)).toBe(revisions);
});

test("windows that strangers open by signing in under many names do not pile up", async () => {
  for (let i = 0; i < 20; i++)
    await h.request(
      "POST",
      "/sessions",
      { name: `nobody${i}`, password: "x" },
      { headers: { "x-test-address": `192.0.2.${i}` } },
    );
  expect(await size(t.rateWindows)).toBeGreaterThanOrEqual(60);
  h.clock.advance(2 * 3_600_000 - 1);
  await sweep(systemOf(h));
  // A window that may still count is kept.
  await spend(systemOf(h), [{ key: "fresh", limit: 1, windowMs: 3_600_000 }]);
  h.clock.advance(1_000);
  await sweep(systemOf(h));
  expect((await h.ports.db.read.select().from(t.rateWindows)).map((row) => row.key)).toEqual(["fresh"]);
});

test("thousands of rows go in small transactions, and the sweep says when there are more and comes again soon", async () => {
  const hostId = things.ids.hostId as Id<"hst">;
  await execute(
    h.ports,
    sql`INSERT INTO host_events (id, host_id, at, kind, item, detail)
      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20600)
      SELECT 'evt_' || printf('%026d', i), ${hostId}, 0, 'drift_repaired', NULL, '' FROM n`,
  );
  const before = h.writes;
  expect(await sweep(systemOf(h))).toBe(false);
  expect(h.writes - before).toBeGreaterThanOrEqual(40);
  const left = (await h.ports.db.read.select().from(t.hostEvents)).filter((event) => event.at === 0).length;
  expect(left).toBe(600);
  expect(await sweep(systemOf(h))).toBe(true);
  expect((await h.ports.db.read.select().from(t.hostEvents)).filter((event) => event.at === 0)).toEqual([]);
});

test("the sweep is one job for ever, however often a process starts, and comes again every hour", async () => {
  await armSweep(h.ports);
  await armSweep(h.ports);
  const job = async () => (await h.ports.db.read.select().from(t.jobs)).filter((one) => one.kind === "retention.sweep");
  expect(await job()).toHaveLength(1);
  await h.runJobs();
  expect(await job()).toMatchObject([{ state: "waiting", runAt: h.clock.now() + SWEEP_EVERY_MS }]);
  h.clock.advance(SWEEP_EVERY_MS);
  await h.runJobs();
  expect(await job()).toMatchObject([{ state: "waiting", runAt: h.clock.now() + SWEEP_EVERY_MS, attempts: 0 }]);
  expect(SWEEP_ON_MS).toBeLessThan(60_000);
});

test("short buckets older than a week become hours with the same sums, least and most; hours go after 90 days", async () => {
  const hostId = things.ids.hostId as Id<"hst">;
  const start = h.clock.now() - (h.clock.now() % LONG_SPAN_MS);
  await transaction(systemOf(h), (tx) =>
    tx.db.insert(t.pathSeries).values(
      Array.from({ length: 24 }, (_, i) => ({
        hostId,
        target: "192.0.2.1",
        span: SHORT_SPAN_MS,
        bucket: start + i * SHORT_SPAN_MS,
        rounds: 5,
        sent: 25,
        received: 25 - (i % 2),
        minUs: i === 3 ? null : 1000 + i,
        maxUs: i === 3 ? null : 2000 + i,
        answered: 5,
        p50SumUs: 100,
      })),
    ),
  );
  await advanceDays(6.9);
  expect(await size(t.pathSeries)).toBe(24);
  await advanceDays(0.3);
  const common = { rounds: 60, sent: 300, received: 294, answered: 60, p50SumUs: 1200, span: LONG_SPAN_MS };
  expect(await h.ports.db.read.select().from(t.pathSeries)).toMatchObject([
    { ...common, bucket: start, minUs: 1000, maxUs: 2011 },
    { ...common, bucket: start + LONG_SPAN_MS, minUs: 1012, maxUs: 2023 },
  ]);
  await advanceDays(90);
  expect(await size(t.pathSeries)).toBe(0);
});
