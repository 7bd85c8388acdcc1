import { sql } from "drizzle-orm";
import type { Ports } from "../ports/index.ts";

/** Rows that even a refused request may leave: counters at the door, and keys that are given back. */
const AT_THE_DOOR = new Set(["rate_windows", "idempotency_keys"]);

/** Every row of every table of ours, as text, so that two moments can be compared. */
export async function dumpTables(ports: Ports): Promise<Record<string, string[]>> {
  const db = ports.db.read;
  const all = await db.all<{ name: string }>(sql`SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`);
  const tables = all.filter(({ name }) => !name.startsWith("sqlite_") && !name.startsWith("__"));
  const dump: Record<string, string[]> = {};
  for (const { name } of tables) {
    if (AT_THE_DOOR.has(name)) continue;
    const rows = await db.all<unknown>(sql`SELECT * FROM ${sql.identifier(name)}`);
    dump[name] = rows.map((row) => JSON.stringify(row)).sort();
  }
  return dump;
}

/** A statement of a test's own: what no verb does, such as disabling an account or breaking a rule on purpose. */
export async function execute(ports: Ports, statement: ReturnType<typeof sql>): Promise<void> {
  await ports.db.write(async (tx) => {
    await tx.all(statement);
  });
}
