import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@libsql/client/web";
import { eq, sql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startSqld } from "../../../scripts/sqld.ts";
import type { Fen } from "../../../shared/money.ts";
import * as t from "../../db/schema/index.ts";
import { isRefusedByTrigger, isUniqueViolation } from "../../db/transaction.ts";
import { webClock, webRandom } from "../../entry/detached-ports.ts";
import type { Database } from "../../ports/index.ts";
import { openFileDatabase } from "./libsql-file.ts";
import { openHttpDatabase } from "./libsql-http.ts";
import { applyMigrations } from "./migrate.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../../migrations");

type Opened = { db: Database; stop(): Promise<void> };

async function onFile(): Promise<Opened> {
  const folder = await mkdtemp(join(tmpdir(), "trunkline-db-"));
  const db = await openFileDatabase(join(folder, "x.db"), { migrations: MIGRATIONS });
  return {
    db,
    async stop() {
      await db.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function onServer(): Promise<Opened> {
  const sqld = await startSqld();
  const client = createClient({ url: sqld.url });
  await applyMigrations(client, MIGRATIONS);
  client.close();
  const db = openHttpDatabase({ url: sqld.url }, { clock: webClock, random: webRandom, sleep: (ms) => sleep(ms) });
  return {
    db,
    async stop() {
      await db.close();
      await sqld.stop();
    },
  };
}

describe.each([
  ["a libSQL file", onFile],
  ["a libSQL server", onServer],
])("the database port on %s", (_name, open) => {
  let opened: Opened;
  let db: Database;

  beforeAll(async () => {
    opened = await open();
    db = opened.db;
  });
  afterAll(() => opened.stop());

  const region = (id: string, name = id) => ({ id, name, saleable: true, sourceRegionId: null, createdAt: 1 });
  const put = (id: string) => db.write((tx) => tx.insert(t.regions).values(region(id)));
  const nameOf = async (id: string) => (await db.read.select().from(t.regions).where(eq(t.regions.id, id)))[0]?.name;

  test("keeps what a transaction that returns wrote, and answers what it returns", async () => {
    const answer = await db.write(async (tx) => {
      await tx.insert(t.regions).values(region("kept"));
      return 42;
    });
    expect([answer, await nameOf("kept")]).toEqual([42, "kept"]);
    await db.ping();
  });

  test("keeps nothing of one that throws, and throws what it threw", async () => {
    const error = new Error("no");
    const failing = db.write(async (tx) => {
      await tx.insert(t.regions).values(region("dropped"));
      throw error;
    });
    await expect(failing).rejects.toBe(error);
    expect(await nameOf("dropped")).toBeUndefined();
  });

  test("counts the rows of a conditional update, and gives back what RETURNING asks for", async () => {
    await put("counted");
    await db.write(async (tx) => {
      const update = (from: string) =>
        tx.update(t.regions).set({ name: "changed" }).where(sql`id = 'counted' AND name = ${from}`);
      expect((await update("counted")).rowsAffected).toBe(1);
      expect((await update("counted")).rowsAffected).toBe(0);
      const rows = await tx.delete(t.regions).where(eq(t.regions.id, "counted")).returning({ name: t.regions.name });
      expect(rows).toEqual([{ name: "changed" }]);
    });
  });

  test("makes a refused constraint and a refusing trigger known as what they are", async () => {
    await put("once");
    const twice = await put("once").catch((error: unknown) => error);
    expect(isUniqueViolation(twice, "regions.id")).toBe(true);
    const account = { id: "wallet:x", balanceFen: 5 as Fen };
    const full = await db.write((tx) => tx.insert(t.ledgerAccounts).values(account)).catch((error: unknown) => error);
    expect(isRefusedByTrigger(full, "ledger: an account starts empty"), String(full)).toBe(true);
    const group = { id: "grp_1" as const, userId: "usr_nobody" as const, name: "of nobody", createdAt: 1 };
    const dangling = await db.write((tx) => tx.insert(t.groups).values(group)).catch((error: unknown) => error);
    expect(String((dangling as Error).cause)).toContain("FOREIGN KEY constraint failed");
  });

  test("loses none of 200 concurrent transactions that read and then write, and serves readers meanwhile", async () => {
    await put("counter");
    const increments = Array.from({ length: 200 }, () =>
      db.write(async (tx) => {
        const [row] = await tx.select().from(t.regions).where(eq(t.regions.id, "counter"));
        const n = row?.name === "counter" ? 0 : Number(row?.name);
        await tx
          .update(t.regions)
          .set({ name: String(n + 1) })
          .where(eq(t.regions.id, "counter"));
      }),
    );
    const reads = Array.from({ length: 300 }, () => nameOf("counter"));
    await Promise.all([...increments, ...reads]);
    expect(await nameOf("counter")).toBe("200");
  });
});
