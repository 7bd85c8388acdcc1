import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createClient } from "@libsql/client/sqlite3";
import { afterEach, beforeEach, expect, test } from "vitest";
import { applyMigrations, readMigrations } from "./migrate.ts";

const OURS = resolve(import.meta.dirname, "../../../migrations");
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "trunkline-migrations-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** Fills the folder with these migrations, each making one table. */
async function write(entries: { tag: string; when: number }[], sql = (tag: string) => `CREATE TABLE ${tag} (n int);`) {
  await rm(join(folder, "meta"), { recursive: true, force: true });
  await mkdir(join(folder, "meta"));
  await writeFile(join(folder, "meta/_journal.json"), JSON.stringify({ entries }));
  for (const { tag } of entries) await writeFile(join(folder, `${tag}.sql`), sql(tag));
}

const database = () => createClient({ url: ":memory:", concurrency: 1 });

test("every migration of ours has its file, and each is dated later than the one before", async () => {
  const migrations = await readMigrations(OURS);
  const files = (await readdir(OURS)).filter((name) => name.endsWith(".sql")).sort();
  expect(migrations.map(({ tag }) => `${tag}.sql`)).toEqual(files);
  for (const [i, { when, tag }] of migrations.entries())
    expect(when, `${tag} must be dated after the one before`).toBeGreaterThan(migrations[i - 1]?.when ?? 0);
});

test("migrating an empty database applies all of ours, and a second time nothing", async () => {
  const client = database();
  const all = (await readMigrations(OURS)).map(({ tag }) => tag);
  expect(await applyMigrations(client, OURS)).toEqual({ applied: all, total: all.length });
  expect(await applyMigrations(client, OURS)).toEqual({ applied: [], total: all.length });
  // Triggers hold semicolons: they arrive whole.
  const { rows } = await client.execute("SELECT COUNT(*) AS n FROM sqlite_master WHERE type = 'trigger'");
  expect(Number(rows[0]?.n)).toBeGreaterThan(10);
});

test("an entry dated no later than the one before it is refused, not skipped", async () => {
  await write([
    { tag: "a", when: 20 },
    { tag: "b", when: 20 },
  ]);
  await expect(applyMigrations(database(), folder)).rejects.toThrow("migration b is dated no later than a");
});

test("a migration put in before one that is applied is refused, not skipped", async () => {
  const client = database();
  await write([{ tag: "b", when: 20 }]);
  await applyMigrations(client, folder);
  await write([
    { tag: "a", when: 10 },
    { tag: "b", when: 20 },
  ]);
  await expect(applyMigrations(client, folder)).rejects.toThrow("lacks migration a");
});

test("a database of a later release is refused", async () => {
  const client = database();
  await write([
    { tag: "a", when: 10 },
    { tag: "b", when: 20 },
  ]);
  await applyMigrations(client, folder);
  await write([{ tag: "a", when: 10 }]);
  await expect(applyMigrations(client, folder)).rejects.toThrow("this release does not know");
});

test("a missing file is named", async () => {
  await write([{ tag: "a", when: 10 }]);
  await rm(join(folder, "a.sql"));
  await expect(applyMigrations(database(), folder)).rejects.toThrow("a.sql");
});

test("a migration that fails half way leaves nothing of itself, and can be corrected", async () => {
  const client = database();
  await write([{ tag: "a", when: 10 }], () => "CREATE TABLE a (n int);\n--> statement-breakpoint\nNONSENSE;");
  await expect(applyMigrations(client, folder)).rejects.toThrow("migration a failed and was rolled back");
  await write([{ tag: "a", when: 10 }]);
  expect(await applyMigrations(client, folder)).toEqual({ applied: ["a"], total: 1 });
});
