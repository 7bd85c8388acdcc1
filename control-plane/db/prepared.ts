import { type SQL, sql } from "drizzle-orm";
import type { Db } from "../ports/index.ts";

/**
 * A query that is built once for each connection rather than each time: building one costs several times what running it does
 * on a file. A transaction is a connection of its own.
 */
export function prepared<Q>(build: (db: Db) => Q): (db: Db) => Q {
  const built = new WeakMap<Db, Q>();
  return (db) => {
    let query = built.get(db);
    if (query === undefined) {
      query = build(db);
      built.set(db, query);
    }
    return query;
  };
}

/** A value of {@link rowsOf}: what is kept as JSON is given as its text. */
export type Cell = string | number | null;

/**
 * Rows as one value of a statement, in place of a table: the statement's text, and so its preparation, is the same for any
 * number of them, and a server is asked once. Columns are named as the members of the rows are.
 */
export function rowsOf<R extends Record<string, Cell>>(
  columns: readonly (keyof R & string)[],
  rows: readonly R[],
): SQL {
  const list = JSON.stringify(rows.map((row) => columns.map((column) => wellFormed(row[column] ?? null))));
  const picked = columns.map((column, i) => sql.raw(`value ->> ${i} AS ${column}`));
  return sql`(SELECT ${sql.join(picked, sql`, `)} FROM json_each(${list}))`;
}

/** Half a surrogate pair in JSON becomes text that is not UTF-8, which the file's client does not survive reading. */
function wellFormed(cell: Cell): Cell {
  return typeof cell === "string" ? cell.toWellFormed() : cell;
}
