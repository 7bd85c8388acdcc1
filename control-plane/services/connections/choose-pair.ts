import { and, count, eq, gt, isNull, ne, sql } from "drizzle-orm";
import { alias } from "drizzle-orm/sqlite-core";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { activeConnection, inList } from "../../db/indexed.ts";
import * as t from "../../db/schema/index.ts";
import type { Transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { isOnlineSql } from "../hosts/reach.ts";
import { nextFreePort } from "./allocate-port.ts";

type Pair = Pick<
  typeof t.pairs.$inferSelect,
  "id" | "boardingHostId" | "forwardHostId" | "startPort" | "maxLoad" | "lastPort"
>;
/** With the most connections that its hosts take; null is no limit but its ports. */
type Candidate = Pair & { boardingCapacity: number | null; forwardCapacity: number | null };
export type Slot = { pair: Pair; port: number };

/**
 * Finds a port for a new connection: the least-loaded online forward host that serves the source region, then its next free
 * port. Throws `no_forward_host` when none is online, `lines_busy` when no port is free on any.
 *
 * @param exclude forward hosts that were tried and stayed silent
 */
export async function chooseSlot(
  ctx: Context,
  tx: Transaction,
  line: { id: Id<"lin">; sourceRegionId: string },
  exclude: ReadonlySet<Id<"hst">>,
): Promise<Slot> {
  const now = ctx.ports.clock.now();
  const pairs = (await pairsOnline(tx, line.sourceRegionId, now)).filter((pair) => !exclude.has(pair.forwardHostId));
  if (pairs.length === 0) throw new AppError("no_forward_host");

  const active = await activeCounts(tx, pairs);
  const load = (pair: Pair) => (active.get(pair.forwardHostId) ?? 0) / pair.maxLoad;
  const byLoad = pairs.sort((a, b) => load(a) - load(b) || (a.id < b.id ? -1 : 1));
  const boarded = await boardedCounts(tx, pairs);
  const restingSince = now - ctx.ports.settings.portQuarantineMs;
  const taken = new Map<Id<"hst">, Set<number>>();
  for (const pair of byLoad) {
    const { forwardHostId, boardingHostId } = pair;
    if (pair.forwardCapacity !== null && (active.get(forwardHostId) ?? 0) >= pair.forwardCapacity) continue;
    if (pair.boardingCapacity !== null && (boarded.get(boardingHostId) ?? 0) >= pair.boardingCapacity) continue;
    const ports = taken.get(forwardHostId) ?? (await takenPorts(tx, forwardHostId, restingSince, line.id));
    taken.set(forwardHostId, ports);
    const port = nextFreePort(pair, ports);
    if (port !== undefined) return { pair, port };
  }
  throw new AppError("lines_busy");
}

/** The pairs that board in this region and whose both hosts are approved and online. */
function pairsOnline(tx: Transaction, regionId: string, now: number): Promise<Candidate[]> {
  const boarding = alias(t.hosts, "boarding");
  const forward = alias(t.hosts, "forward");
  return tx.db
    .select({
      id: t.pairs.id,
      boardingHostId: t.pairs.boardingHostId,
      forwardHostId: t.pairs.forwardHostId,
      startPort: t.pairs.startPort,
      maxLoad: t.pairs.maxLoad,
      lastPort: t.pairs.lastPort,
      boardingCapacity: boarding.capacity,
      forwardCapacity: forward.capacity,
    })
    .from(boarding)
    .innerJoin(t.pairs, eq(t.pairs.boardingHostId, boarding.id))
    .innerJoin(forward, eq(forward.id, t.pairs.forwardHostId))
    .where(
      and(
        eq(boarding.role, "boarding"),
        eq(boarding.regionId, regionId),
        isNull(t.pairs.retiredAt),
        ...[boarding, forward].flatMap((host) => [eq(host.approved, true), isOnlineSql(now, host)]),
      ),
    );
}

/** How many connections run through each of the boarding hosts that have a limit. */
async function boardedCounts(tx: Transaction, pairs: readonly Candidate[]): Promise<Map<Id<"hst">, number>> {
  const limited = pairs.filter((pair) => pair.boardingCapacity !== null).map((pair) => pair.boardingHostId);
  if (limited.length === 0) return new Map();
  const ids = JSON.stringify([...new Set(limited)]);
  // By the pair's forward host, though the pair would name the connection: active ones are indexed by that. A pair that was
  // taken apart still carries what was opened through it.
  const rows = await tx.db.all<{ host: Id<"hst">; n: number }>(sql`
    SELECT pairs.boarding_host_id AS host, count(*) AS n
    FROM pairs CROSS JOIN connections INDEXED BY connections_port
      ON connections.forward_host_id = pairs.forward_host_id AND connections.pair_id = pairs.id
    WHERE ${inList(t.pairs.boardingHostId, ids)} AND ${activeConnection}
    GROUP BY pairs.boarding_host_id`);
  return new Map(rows.map(({ host, n }) => [host, n]));
}

/** How many connections run on each pair's forward host. */
async function activeCounts(tx: Transaction, pairs: readonly Pair[]): Promise<Map<Id<"hst">, number>> {
  const ids = JSON.stringify([...new Set(pairs.map((pair) => pair.forwardHostId))]);
  const rows = await tx.db
    .select({ host: t.connections.forwardHostId, n: count() })
    .from(t.connections)
    .where(and(inList(t.connections.forwardHostId, ids), activeConnection))
    .groupBy(t.connections.forwardHostId);
  return new Map(rows.map(({ host, n }) => [host, n]));
}

/** The ports of a forward host that are in use or rest. */
async function takenPorts(
  tx: Transaction,
  forwardHostId: Id<"hst">,
  restingSince: number,
  lineId: Id<"lin">,
): Promise<Set<number>> {
  const port = { port: t.connections.port };
  const here = eq(t.connections.forwardHostId, forwardHostId);
  const rows = await tx.db
    .select(port)
    .from(t.connections)
    .where(and(here, activeConnection))
    .unionAll(
      tx.db
        .select(port)
        .from(t.connections)
        // A port rests from other customers' late packets; the line that had it may have it again at once.
        .where(and(here, gt(t.connections.closedAt, restingSince), ne(t.connections.lineId, lineId))),
    );
  return new Set(rows.map((row) => row.port));
}
