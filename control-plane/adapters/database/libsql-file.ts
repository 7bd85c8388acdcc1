import { type Client, createClient } from "@libsql/client/sqlite3";
import { drizzle, type LibSQLDatabase } from "drizzle-orm/libsql";
import * as schema from "../../db/schema/index.ts";
import type { Database, Db } from "../../ports/index.ts";
import { Fifo } from "./fifo.ts";
import { applyMigrations } from "./migrate.ts";

const PRAGMAS = [
  "PRAGMA journal_mode = WAL",
  // Orders, ledger and payments survive a power cut: each commit is on disk before it is answered.
  "PRAGMA synchronous = FULL",
  "PRAGMA foreign_keys = ON",
  // Another process (a backup) may hold the lock for a moment; our own writers queue in the FIFO instead.
  "PRAGMA busy_timeout = 2000",
];

/**
 * libSQL on a file, for one process. One writer connection behind a FIFO and one reader connection: concurrent
 * transactions on one client fail with SQLITE_BUSY, and a busy timeout blocks the event loop when the lock's holder is in
 * the same process. Applies the migrations first, and throws when the database does not hold exactly those afterwards.
 *
 * @param path of the file; made when it does not exist
 */
export async function openFileDatabase(path: string, options: { migrations: string }): Promise<Database> {
  const url = `file:${path}`;
  const writer = createClient({ url, concurrency: 1 });
  for (const pragma of PRAGMAS) await writer.execute(pragma);
  await applyMigrations(writer, options.migrations);
  // Migrating switches them off and on; they are on whatever it did.
  await writer.execute("PRAGMA foreign_keys = ON");

  const reader = createClient({ url, concurrency: 1 });
  for (const pragma of PRAGMAS) await reader.execute(pragma);
  await reader.execute("PRAGMA query_only = ON");

  return new FileDatabase(writer, drizzle(writer, { schema, casing: "snake_case" }), reader);
}

class FileDatabase implements Database {
  readonly read: Db;
  readonly #writer: Client;
  readonly #db: LibSQLDatabase<typeof schema>;
  readonly #reader: Client;
  readonly #queue = new Fifo();

  constructor(writer: Client, db: LibSQLDatabase<typeof schema>, reader: Client) {
    this.#writer = writer;
    this.#db = db;
    this.#reader = reader;
    this.read = drizzle(reader, { schema, casing: "snake_case" });
  }

  write<T>(fn: (tx: Db) => Promise<T>): Promise<T> {
    return this.#queue.run(() => this.#db.transaction((tx) => fn(tx as unknown as Db)));
  }

  async ping(): Promise<void> {
    await this.#reader.execute("SELECT 1");
  }

  async close(): Promise<void> {
    await this.#queue.run(async () => {
      this.#writer.close();
      this.#reader.close();
    });
  }
}
