import { setImmediate as turn } from "node:timers/promises";
import type { Client } from "@libsql/client";
import { sql } from "drizzle-orm";
import { LibSQLDatabase } from "drizzle-orm/libsql/driver-core";
import { LibSQLSession } from "drizzle-orm/libsql/session";
import { SQLiteAsyncDialect } from "drizzle-orm/sqlite-core";
import { AppError } from "../../../shared/errors.ts";
import type { Database, Db } from "../../ports/index.ts";
import { FileConnection } from "./file-connection.ts";
import { applyMigrations } from "./migrate.ts";

const PRAGMAS = [
  "PRAGMA journal_mode = WAL",
  // Orders, ledger and payments survive a power cut: each commit is on disk before it is answered.
  "PRAGMA synchronous = FULL",
  "PRAGMA foreign_keys = ON",
  // Another process (a backup) may hold the lock for a moment; our own writers queue instead.
  "PRAGMA busy_timeout = 2000",
];

/** Writes that share one commit at most, and so run before sockets and timers get their turn. */
const GROUP = 32;

/**
 * libSQL on a file, for one process. One writer connection and one reader connection: concurrent transactions on one client
 * fail with SQLITE_BUSY, and a busy timeout blocks the event loop when the lock's holder is in the same process. Applies the
 * migrations first, and throws when the database does not hold exactly those afterwards.
 *
 * @param path of the file; made when it does not exist
 */
export async function openFileDatabase(path: string, options: { migrations: string }): Promise<Database> {
  const writer = new FileConnection(path);
  for (const pragma of PRAGMAS) await writer.execute(pragma);
  await applyMigrations(writer, options.migrations);

  const reader = new FileConnection(path);
  for (const pragma of PRAGMAS) await reader.execute(pragma);
  await reader.execute("PRAGMA query_only = ON");
  return new FileDatabase(writer, reader);
}

type Write = {
  run(db: Db): Promise<unknown>;
  resolve(value: unknown): void;
  reject(error: unknown): void;
};

/** When someone whose write the disk refused may try again: space is made by people, or by the sweep. */
const DISK_RETRY_MS = 30_000;

/** True when an error, or what caused it, is the disk's: full, failing or read only. */
function isDiskFault(error: unknown): boolean {
  for (let e = error; e instanceof Error; e = e.cause)
    if (/^SQLITE_(?:FULL|IOERR|READONLY)/.test(String((e as { code?: unknown }).code))) return true;
  return false;
}

class FileDatabase implements Database {
  readonly read: Db;
  readonly #writer: FileConnection;
  readonly #reader: FileConnection;
  readonly #waiting: Write[] = [];
  #writing: Promise<void> | undefined;
  /** A write failed for want of a disk that takes it, and {@link ping} has not seen it take one since. */
  #diskFailed = false;

  constructor(writer: FileConnection, reader: FileConnection) {
    this.#writer = writer;
    this.#reader = reader;
    this.read = drizzleOn(reader);
  }

  write<T>(fn: (tx: Db) => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const refused = (error: unknown) => {
        if (!isDiskFault(error)) return reject(error);
        this.#diskFailed = true;
        const problem = new AppError("storage_unavailable", undefined, { retryAfterMs: DISK_RETRY_MS });
        problem.cause = error;
        reject(problem);
      };
      this.#waiting.push({ run: fn, resolve: resolve as (value: unknown) => void, reject: refused });
      this.#writing ??= this.#writeAll();
    });
  }

  async ping(): Promise<void> {
    await this.#reader.execute("SELECT 1");
    if (!this.#diskFailed) return;
    // Reading goes on when the disk is full: only a write can tell that it takes writes again. This one changes nothing.
    await this.write((tx) => tx.all(sql.raw("PRAGMA user_version = 0")));
    this.#diskFailed = false;
  }

  async close(): Promise<void> {
    await this.#writing;
    this.#writer.close();
    this.#reader.close();
  }

  async #writeAll(): Promise<void> {
    while (this.#waiting.length > 0) {
      await this.#writeGroup();
      // Statements on a file wait for nothing: without this a long queue would keep sockets and timers out until it ends.
      await turn();
    }
    this.#writing = undefined;
  }

  /**
   * Runs the writes that wait, one after another, each in a savepoint of its own, and commits them together: reaching the disk
   * costs more than the statements do. A write that throws takes back its own changes and nobody else's. None is answered
   * before the commit, so what was answered is on disk.
   */
  async #writeGroup(): Promise<void> {
    const answers: (() => void)[] = [];
    const group: Write[] = [];
    try {
      this.#writer.exec("BEGIN IMMEDIATE");
      for (let write = this.#waiting[0]; write !== undefined && group.length < GROUP; write = this.#waiting[0]) {
        this.#waiting.shift();
        group.push(write);
        answers.push(await this.#runInSavepoint(write));
      }
      this.#writer.exec("COMMIT");
    } catch (error) {
      if (this.#writer.inTransaction) this.#writer.exec("ROLLBACK");
      // The lock was not to be had: the one that asked for it is told, the others try again.
      const first = group.length === 0 ? this.#waiting.shift() : undefined;
      for (const write of first === undefined ? group : [first]) write.reject(error);
      return;
    }
    for (const answer of answers) answer();
  }

  /** Answers what to tell the write's caller once all is committed. Throws when the whole transaction is lost. */
  async #runInSavepoint({ run, resolve, reject }: Write): Promise<() => void> {
    const writer = this.#writer;
    writer.exec("SAVEPOINT one");
    let open = true;
    const mine = {
      execute: (statement: Parameters<Client["execute"]>[0]) => {
        // What is not awaited must not write into another's transaction.
        if (!open) throw new Error("the transaction has ended");
        return writer.execute(statement);
      },
    };
    try {
      const value = await run(drizzleOn(mine));
      open = false;
      writer.exec("RELEASE one");
      return () => resolve(value);
    } catch (error) {
      open = false;
      // A full disk ends the transaction with everything before this write.
      if (!writer.inTransaction) throw error;
      writer.exec("ROLLBACK TO one");
      writer.exec("RELEASE one");
      return () => reject(error);
    }
  }
}

/** One for all: it remembers the column names that it worked out. */
const DIALECT = new SQLiteAsyncDialect({ casing: "snake_case" });

/** Without the schema, which drizzle needs only for its relational queries and would unfold for each transaction. */
function drizzleOn(connection: Pick<FileConnection, "execute">): Db {
  const session = new LibSQLSession(connection as Client, DIALECT, undefined, {}, undefined);
  return new LibSQLDatabase("async", DIALECT, session, undefined) as unknown as Db;
}
