import { type AnyColumn, type Placeholder, type SQL, sql } from "drizzle-orm";
import * as t from "./schema/index.ts";

/**
 * Conditions in the words of the indexes that serve them. A partial index is used only when the query says its condition as it
 * stands there: with a bound value SQLite can't know that it holds, and reads the whole table.
 */
export const activeConnection: SQL = sql`${t.connections.state} = 'active'`;
export const keptLine: SQL = sql`${t.lines.state} <> 'deleted'`;

/**
 * True for the values of a list, given as a JSON array or a placeholder for one: one statement for lists of any length, by the
 * column's index.
 */
export function inList(column: AnyColumn, list: string | Placeholder): SQL {
  return sql`${column} IN (SELECT value FROM json_each(${list}))`;
}
