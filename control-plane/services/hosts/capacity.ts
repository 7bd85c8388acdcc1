import { and, count, eq, inArray, isNull, ne, sum } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";

/** What a host could take by its ports, and what it has: connections, of an exit lines. */
export type Use = { ports: number; used: number };

/** How much of these hosts is in use. An exit serves one line. */
export async function readUse(
  db: Db,
  rows: readonly Pick<typeof t.hosts.$inferSelect, "id" | "role">[],
): Promise<Map<Id<"hst">, Use>> {
  const of = (role: string) => rows.filter((row) => row.role === role).map((row) => row.id);
  const [boardings, forwards, exits] = [of("boarding"), of("forward"), of("exit")];
  const use = new Map<Id<"hst">, Use>(rows.map(({ id, role }) => [id, { ports: role === "exit" ? 1 : 0, used: 0 }]));
  const add = (id: Id<"hst"> | null, what: keyof Use, n: number) => {
    const entry = id === null ? undefined : use.get(id);
    if (entry !== undefined) entry[what] += n;
  };
  const active = eq(t.connections.state, "active");
  for (const [ids, column] of [
    [boardings, t.pairs.boardingHostId],
    [forwards, t.pairs.forwardHostId],
  ] as const) {
    if (ids.length === 0) continue;
    const ports = await db
      .select({ id: column, n: sum(t.pairs.maxLoad) })
      .from(t.pairs)
      .where(and(inArray(column, ids), isNull(t.pairs.retiredAt)))
      .groupBy(column);
    for (const { id, n } of ports) add(id, "ports", Number(n ?? 0));
    const used = await db
      .select({ id: column, n: count() })
      .from(t.connections)
      .innerJoin(t.pairs, eq(t.pairs.id, t.connections.pairId))
      .where(and(inArray(column, ids), active))
      .groupBy(column);
    for (const { id, n } of used) add(id, "used", n);
  }
  if (exits.length > 0) {
    const lines = await db
      .select({ id: t.lines.exitHostId, n: count() })
      .from(t.lines)
      .where(and(inArray(t.lines.exitHostId, exits), ne(t.lines.state, "deleted")))
      .groupBy(t.lines.exitHostId);
    for (const { id, n } of lines) add(id, "used", n);
  }
  return use;
}
