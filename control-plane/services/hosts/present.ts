import { and, gt, inArray, isNull, or, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { readPaths } from "../paths/read.ts";
import { readUse } from "./capacity.ts";
import { viewHost } from "./views.ts";

type Host = typeof t.hosts.$inferSelect;

/** Hosts as operators see them, in the order given; a few queries however many they are. */
export async function presentHosts(db: Db, rows: readonly Host[], now: number) {
  const ids = rows.map((row) => row.id);
  const lagging = await laggingSince(db, ids);
  const paths = await readPaths(db, ids, now);
  const use = await readUse(db, rows);
  return rows.map((row) =>
    viewHost(row, now, { laggingSince: lagging.get(row.id) ?? null, path: paths.get(row.id), use: use.get(row.id) }),
  );
}

export async function presentHost(db: Db, row: Host, now: number) {
  const [view] = await presentHosts(db, [row], now);
  if (view === undefined) throw new Error("a host has one view");
  return view;
}

/** Of hosts that have not applied their newest revision: when the first one they lack was made. */
async function laggingSince(db: Db, ids: readonly Id<"hst">[]): Promise<Map<Id<"hst">, number>> {
  if (ids.length === 0) return new Map();
  const rows = await db
    .select({ hostId: t.hostRevisions.hostId, since: sql<number>`MIN(${t.hostRevisions.at})` })
    .from(t.hostRevisions)
    .innerJoin(t.hosts, sql`${t.hosts.id} = ${t.hostRevisions.hostId}`)
    .where(
      and(
        inArray(t.hostRevisions.hostId, [...ids]),
        isNull(t.hostRevisions.appliedAt),
        or(isNull(t.hosts.appliedRev), gt(t.hostRevisions.rev, t.hosts.appliedRev)),
      ),
    )
    .groupBy(t.hostRevisions.hostId);
  return new Map(rows.map((row) => [row.hostId, row.since]));
}
