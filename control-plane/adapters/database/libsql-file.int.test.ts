import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { eq, sql } from "drizzle-orm";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import * as t from "../../db/schema/index.ts";
import type { Database } from "../../ports/index.ts";
import { FileConnection } from "./file-connection.ts";
import { openFileDatabase } from "./libsql-file.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../../migrations");
let folder: string;
let path: string;
let db: Database;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "trunkline-db-"));
  path = join(folder, "x.db");
  db = await openFileDatabase(path, { migrations: MIGRATIONS });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await db.close();
  await rm(folder, { recursive: true, force: true });
});

const region = (id: string) => ({ id, name: id, saleable: true, sourceRegionId: null, createdAt: 1 });
const put = (id: string) => db.write(async (tx) => void (await tx.insert(t.regions).values(region(id))));
const names = async () => (await db.read.select({ id: t.regions.id }).from(t.regions)).map(({ id }) => id).sort();
const numbered = (n: number) => Array.from({ length: n }, (_, i) => `r${String(i).padStart(3, "0")}`);

test("writes asked for at once share a few commits, and none is answered before what it wrote can be read", async () => {
  const exec = vi.spyOn(FileConnection.prototype, "exec");
  const missing: string[] = [];
  await Promise.all(
    numbered(100).map((id) =>
      put(id).then(async () => {
        if (!(await names()).includes(id)) missing.push(id);
      }),
    ),
  );
  expect(missing).toEqual([]);
  const commits = exec.mock.calls.filter(([statement]) => statement === "COMMIT").length;
  expect(commits).toBeGreaterThan(1);
  expect(commits).toBeLessThan(10);
});

test("each commit is on disk before it is answered: the writer's synchronous is FULL", async () => {
  const [row] = await db.write((tx) => tx.all<{ synchronous: number }>(sql`PRAGMA synchronous`));
  expect(row?.synchronous).toBe(2);
});

test("a write that throws takes back its own changes and none of those that share its commit", async () => {
  const outcomes = await Promise.allSettled(
    numbered(30).map((id, i) =>
      db.write(async (tx) => {
        await tx.insert(t.regions).values(region(id));
        if (i % 3 === 0) throw new Error(`no ${id}`);
        // A refused statement is no reason to fail, when the write goes on after it.
        if (i % 3 === 1) await tx.insert(t.regions).values(region(id)).onConflictDoNothing();
      }),
    ),
  );
  expect(outcomes.map((outcome) => outcome.status)).toEqual(
    numbered(30).map((_, i) => (i % 3 === 0 ? "rejected" : "fulfilled")),
  );
  expect(await names()).toEqual(numbered(30).filter((_, i) => i % 3 !== 0));
});

test("a queue of writes, however long, lets timers and sockets have their turn", async () => {
  let turns = 0;
  let ended = false;
  const look = () => {
    turns++;
    if (!ended) setImmediate(look);
  };
  setImmediate(look);
  await Promise.all(numbered(320).map(put));
  ended = true;
  expect(turns).toBeGreaterThanOrEqual(9);
});

test("when the transaction is lost with what others wrote in it, each of them is told, and the next write is as ever", async () => {
  const outcomes = await Promise.allSettled([
    put("before"),
    // As a full disk does.
    db.write((tx) => tx.all(sql`ROLLBACK`)),
    put("after"),
  ]);
  expect(await names()).toEqual(outcomes[2].status === "fulfilled" ? ["after"] : []);
  expect(outcomes[0].status).toBe("rejected");
  expect(outcomes[1].status).toBe("rejected");
  await put("next");
  expect(await names()).toContain("next");
});

test("while another process holds the lock one write fails, and those behind it are done once it lets go", async () => {
  const other = new FileConnection(path);
  // Right after a write the next group has not begun: the two that follow wait for the lock together.
  await put("zeroth");
  other.exec("BEGIN IMMEDIATE");
  const first = put("first").catch((error: unknown) => {
    other.exec("COMMIT");
    return String(error);
  });
  const second = put("second");
  expect(await first).toMatch(/busy|locked/i);
  await second;
  other.close();
  expect(await names()).toEqual(["second", "zeroth"]);
});

test("what a write did not wait for never lands in another's transaction", async () => {
  let late: Promise<unknown> | undefined;
  await db.write(async (tx) => {
    late = new Promise((done) => setImmediate(done)).then(() => tx.insert(t.regions).values(region("late")));
    late.catch(() => {});
  });
  const others = db.write(async () => {
    await new Promise((done) => setTimeout(done, 20));
  });
  await expect(late).rejects.toThrow(expect.objectContaining({ cause: new Error("the transaction has ended") }));
  await others;
  expect(await names()).toEqual([]);
});

test("a statement that was refused can be run again, and a kept one sees what changed since", async () => {
  await put("one");
  await expect(put("one")).rejects.toThrow();
  await put("two");
  await expect(put("two")).rejects.toThrow();
  const nameOf = () => db.read.select({ name: t.regions.name }).from(t.regions).where(eq(t.regions.id, "one"));
  expect(await nameOf()).toEqual([{ name: "one" }]);
  await db.write((tx) => tx.update(t.regions).set({ name: "changed" }).where(eq(t.regions.id, "one")));
  expect(await nameOf()).toEqual([{ name: "changed" }]);
  // As the migrations of a later release do to one that still runs.
  await db.write((tx) => tx.all(sql`ALTER TABLE regions ADD COLUMN later TEXT DEFAULT 'x'`));
  expect(await nameOf()).toEqual([{ name: "changed" }]);
  expect(await db.read.all(sql`SELECT * FROM regions WHERE id = 'one'`)).toMatchObject([{ id: "one", later: "x" }]);
});

test("rows have their columns by name, of two of one name the first; what no number holds exactly is refused", async () => {
  const one = await db.read.all(sql`SELECT 1 AS a, 'x' AS b, NULL AS c, 2 AS a, 1.5 AS d, ${true} AS e`);
  expect(one).toEqual([{ a: 1, b: "x", c: null, d: 1.5, e: 1 }]);
  const most = await db.read.all(sql`SELECT ${Number.MAX_SAFE_INTEGER} AS n`);
  expect(most).toEqual([{ n: Number.MAX_SAFE_INTEGER }]);
  await expect(db.read.all(sql`SELECT 9007199254740993 AS n`)).rejects.toThrow();
});
