import type { Client, InStatement } from "@libsql/client";
import Sqlite from "libsql";

/** Distinct statements kept prepared; lists of values make a statement for each length. */
const KEPT_STATEMENTS = 500;

type Prepared = { statement: Sqlite.Statement; Row: RowOf | undefined };

/**
 * One connection to a libSQL file, which keeps its statements prepared: preparing costs more than running here, and
 * `@libsql/client` prepares each time, asks for the column names twice and defines every value of every row as a property.
 * It answers as that client does as far as drizzle and the migrations look.
 */
export class FileConnection {
  readonly #db: Sqlite.Database;
  readonly #prepared = new Map<string, Prepared>();

  constructor(path: string) {
    this.#db = new Sqlite(path);
  }

  /** Whether a transaction is open: some errors end it by themselves. */
  get inTransaction(): boolean {
    return this.#db.inTransaction;
  }

  /** Statements without values or rows: BEGIN and its like. */
  exec(sql: string): void {
    this.#db.exec(sql);
  }

  async execute(statement: InStatement): ReturnType<Client["execute"]> {
    const { sql, args = [] } = typeof statement === "string" ? { sql: statement } : statement;
    if (!Array.isArray(args)) throw new TypeError("statements here have positional values");
    const prepared = this.#prepare(sql);
    try {
      const { statement, Row } = prepared;
      const values = args.map(toSql);
      if (Row === undefined) return { rows: [], rowsAffected: statement.run(values).changes } as never;
      const rows = (statement.all(values) as unknown[][]).map((row) => new Row(row));
      return { rows, rowsAffected: 0 } as never;
    } catch (error) {
      // What failed half-way is not used again.
      this.#prepared.delete(sql);
      throw error;
    }
  }

  /** Statements that must all be done or none, foreign keys unchecked while they run. */
  async migrate(statements: readonly InStatement[]): ReturnType<Client["migrate"]> {
    this.exec("PRAGMA foreign_keys = OFF");
    try {
      this.exec("BEGIN");
      for (const statement of statements) await this.execute(statement);
      this.exec("COMMIT");
    } finally {
      if (this.inTransaction) this.exec("ROLLBACK");
      this.exec("PRAGMA foreign_keys = ON");
    }
    return [];
  }

  close(): void {
    this.#prepared.clear();
    this.#db.close();
  }

  #prepare(sql: string): Prepared {
    const kept = this.#prepared.get(sql);
    if (kept !== undefined) return kept;
    const statement = this.#db.prepare(sql);
    const Row = statement.reader
      ? rowOf(
          statement
            .raw(true)
            .columns()
            .map(({ name }) => name),
        )
      : undefined;
    if (this.#prepared.size >= KEPT_STATEMENTS) this.#prepared.clear();
    const prepared = { statement, Row };
    this.#prepared.set(sql, prepared);
    return prepared;
  }
}

type RowOf = new (values: readonly unknown[]) => object;

/**
 * What a statement's rows are made with: values by column name, and, as drizzle reads them, by number with a length. Of two
 * columns of one name the first has it.
 */
function rowOf(columns: readonly string[]): RowOf {
  const named = [...new Set(columns)].map((name) => [name, columns.indexOf(name)] as const);
  class Row {
    readonly #values: readonly unknown[];

    constructor(values: readonly unknown[]) {
      this.#values = values;
      for (const [name, i] of named) (this as Record<string, unknown>)[name] = fromSql(values[i]);
    }

    get length(): number {
      return columns.length;
    }

    static {
      for (const i of columns.keys())
        Object.defineProperty(Row.prototype, i, {
          get(this: Row) {
            return this.#values[i];
          },
        });
    }
  }
  return Row;
}

function fromSql(value: unknown): unknown {
  if (typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER)
    throw new RangeError("the database holds a number beyond what is exact");
  return value;
}

function toSql(value: unknown): unknown {
  if (typeof value === "boolean") return value ? 1 : 0;
  if (value === undefined) throw new TypeError("undefined is no value for the database");
  if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError("only finite numbers can be stored");
  return value;
}
