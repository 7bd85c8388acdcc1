import { and, count, eq, gt, inArray, isNull, ne, or } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { isOnline } from "../hosts/reach.ts";
import { nextFreePort } from "./allocate-port.ts";

export type Slot = { pair: typeof t.pairs.$inferSelect; port: number };

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
  const hosts = await tx.db
    .select()
    .from(t.hosts)
    .where(and(inArray(t.hosts.role, ["boarding", "forward"]), eq(t.hosts.approved, true)));
  const online = new Map(hosts.filter((host) => isOnline(host, now)).map((host) => [host.id, host]));
  const pairs = (await tx.db.select().from(t.pairs).where(isNull(t.pairs.retiredAt))).filter(
    (pair) =>
      online.get(pair.boardingHostId)?.regionId === line.sourceRegionId &&
      online.has(pair.forwardHostId) &&
      !exclude.has(pair.forwardHostId),
  );
  if (pairs.length === 0) throw new AppError("no_forward_host");

  const taken = await takenPorts(
    tx,
    pairs.map((pair) => pair.forwardHostId),
    now - ctx.ports.settings.portQuarantineMs,
    line.id,
  );
  const byLoad = [...pairs].sort((a, b) => {
    const load = (pair: Slot["pair"]) => (taken.get(pair.forwardHostId)?.active ?? 0) / pair.maxLoad;
    return load(a) - load(b) || (a.id < b.id ? -1 : 1);
  });
  for (const pair of byLoad) {
    const { capacity } = online.get(pair.forwardHostId) ?? {};
    if (typeof capacity === "number" && (taken.get(pair.forwardHostId)?.active ?? 0) >= capacity) continue;
    if (await isFull(tx, online.get(pair.boardingHostId))) continue;
    const port = nextFreePort(pair, taken.get(pair.forwardHostId)?.ports ?? new Set());
    if (port !== undefined) return { pair, port };
  }
  throw new AppError("lines_busy");
}

/** Does a boarding host have as many connections as it may? */
async function isFull(tx: Transaction, boarding: typeof t.hosts.$inferSelect | undefined): Promise<boolean> {
  if (boarding === undefined || boarding.capacity === null) return false;
  const [row] = await tx.db
    .select({ n: count() })
    .from(t.connections)
    .innerJoin(t.pairs, eq(t.pairs.id, t.connections.pairId))
    .where(and(eq(t.pairs.boardingHostId, boarding.id), eq(t.connections.state, "active")));
  return (row?.n ?? 0) >= boarding.capacity;
}

/** Per forward host: how many connections are active, and which ports are in use or rest. */
async function takenPorts(tx: Transaction, forwardIds: Id<"hst">[], restingSince: number, lineId: Id<"lin">) {
  const rows = await tx.db
    .select({ host: t.connections.forwardHostId, port: t.connections.port, state: t.connections.state })
    .from(t.connections)
    .where(
      and(
        inArray(t.connections.forwardHostId, [...new Set(forwardIds)]),
        or(
          eq(t.connections.state, "active"),
          // A port rests from other customers' late packets; the line that had it may have it again at once.
          and(gt(t.connections.closedAt, restingSince), ne(t.connections.lineId, lineId)),
        ),
      ),
    );
  const taken = new Map<string, { active: number; ports: Set<number> }>();
  for (const { host, port, state } of rows) {
    const entry = taken.get(host) ?? { active: 0, ports: new Set<number>() };
    entry.ports.add(port);
    if (state === "active") entry.active++;
    taken.set(host, entry);
  }
  return taken;
}
