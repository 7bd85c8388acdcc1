import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Client } from "@libsql/client";
import { readMigrationFiles } from "drizzle-orm/migrator";

/** drizzle's own table, so that its tools and ours agree on what a database has. */
const TABLE = "__drizzle_migrations";

export type Migration = {
  /** The file's name without `.sql`. */
  tag: string;
  /** When it was generated, UTC ms: what drizzle knows a migration by. */
  when: number;
  hash: string;
  /** One statement each; a trigger holds `;`, so the file is cut only at drizzle's break points. */
  statements: readonly string[];
};

/**
 * The migrations of a folder in the order of their journal. Throws when a file is missing, or when `when` does not grow from
 * entry to entry: drizzle takes the newest `when` for "all before this are applied", and would skip such an entry silently.
 */
export async function readMigrations(folder: string): Promise<Migration[]> {
  const journal = JSON.parse(await readFile(join(folder, "meta/_journal.json"), "utf8")) as {
    entries: { tag: string; when: number }[];
  };
  const files = readMigrationFiles({ migrationsFolder: folder });
  return journal.entries.map(({ tag, when }, i) => {
    const before = journal.entries[i - 1];
    if (before !== undefined && before.when >= when)
      throw new Error(`migration ${tag} is dated no later than ${before.tag}, before it in the journal`);
    const file = files[i];
    if (file === undefined || file.folderMillis !== when) throw new Error(`migration ${tag} has no file`);
    return { tag, when, hash: file.hash, statements: file.sql };
  });
}

/**
 * Brings a database to the last migration of the folder, forward only, each migration in a transaction of its own. Does
 * nothing to a database that has them all. Throws when the database has a migration this release does not know, lacks one
 * older than its newest, or does not hold exactly the journal's migrations afterwards.
 *
 * @param progress called before each migration that is applied
 * @returns the tags applied, and how many migrations the database has now
 */
export async function applyMigrations(
  client: Pick<Client, "execute" | "migrate">,
  folder: string,
  progress: (tag: string) => void = () => {},
): Promise<{ applied: string[]; total: number }> {
  const migrations = await readMigrations(folder);
  await client.execute(
    `CREATE TABLE IF NOT EXISTS ${TABLE} (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric)`,
  );
  const applied: string[] = [];
  for (const migration of pending(migrations, await appliedAt(client))) {
    progress(migration.tag);
    try {
      await client.migrate([
        ...migration.statements,
        { sql: `INSERT INTO ${TABLE} (hash, created_at) VALUES (?, ?)`, args: [migration.hash, migration.when] },
      ]);
      applied.push(migration.tag);
    } catch (error) {
      // Another process may have applied it a moment earlier; then ours was rolled back and nothing is amiss.
      if (!(await appliedAt(client)).includes(migration.when))
        throw new Error(`migration ${migration.tag} failed and was rolled back: ${messageOf(error)}`, { cause: error });
    }
  }
  const now = await appliedAt(client);
  if (now.length !== migrations.length || pending(migrations, now).length > 0)
    throw new Error(`the database has ${now.length} migrations where the journal has ${migrations.length}`);
  return { applied, total: now.length };
}

function pending(migrations: readonly Migration[], applied: readonly number[]): Migration[] {
  const unknown = applied.filter((when) => !migrations.some((m) => m.when === when));
  if (unknown.length > 0)
    throw new Error(
      `the database has ${unknown.length} migrations that this release does not know; it is a later one's`,
    );
  const missing = migrations.filter((m) => !applied.includes(m.when));
  const overtaken = missing.find((m) => applied.some((when) => when > m.when));
  if (overtaken !== undefined)
    throw new Error(`the database lacks migration ${overtaken.tag} but has later ones; migrations only go forward`);
  return missing;
}

async function appliedAt(client: Pick<Client, "execute">): Promise<number[]> {
  const { rows } = await client.execute(`SELECT created_at FROM ${TABLE}`);
  return rows.map((row) => Number(row.created_at));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
