import { and, count, eq, gt, isNull, ne } from "drizzle-orm";
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
  const restingSince = now - ctx.ports.settings.portQuarantineMs;
  for (const pair of byLoad) {
    if (pair.forwardCapacity !== null && (active.get(pair.forwardHostId) ?? 0) >= pair.forwardCapacity) continue;
    if (await isFull(tx, pair)) continue;
    const port = nextFreePort(pair, await takenPorts(tx, pair.forwardHostId, restingSince, line.id));
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

/** Does the pair's boarding host have as many connections as it may? */
async function isFull(tx: Transaction, { boardingHostId, boardingCapacity }: Candidate): Promise<boolean> {
  if (boardingCapacity === null) return false;
  const [row] = await tx.db
    .select({ n: count() })
    .from(t.connections)
    .innerJoin(t.pairs, eq(t.pairs.id, t.connections.pairId))
    .where(and(eq(t.pairs.boardingHostId, boardingHostId), activeConnection));
  return (row?.n ?? 0) >= boardingCapacity;
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
  const used = await tx.db.select(port).from(t.connections).where(and(here, activeConnection));
  const resting = await tx.db
    .select(port)
    .from(t.connections)
    // A port rests from other customers' late packets; the line that had it may have it again at once.
    .where(and(here, gt(t.connections.closedAt, restingSince), ne(t.connections.lineId, lineId)));
  return new Set([...used, ...resting].map((row) => row.port));
}
