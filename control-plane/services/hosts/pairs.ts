import { and, asc, count, eq, isNull, lt, max, min, ne, sql, sum } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import { ipv4Schema } from "../../../shared/protocol/values.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { viewPair } from "./views.ts";

/** A forward host's whole state goes in one frame of 1 MiB, and a relay takes up to 160 bytes of it. */
export const MOST_PORTS = 5_000;

const range = {
  startPort: z.number().int().min(1024).max(65_535),
  maxLoad: z.number().int().min(1).max(MOST_PORTS),
};
const BEYOND = "the range ends above port 65535";

export const pairInput = z
  .object({
    boardingHostId: idSchema("hst"),
    forwardHostId: idSchema("hst"),
    /** The address clients connect to; the boarding host's public one when absent. */
    boardingAddress: ipv4Schema.optional(),
    startPort: range.startPort.default(30_000),
    maxLoad: range.maxLoad.default(200),
  })
  .refine((p) => p.startPort + p.maxLoad <= 65_536, BEYOND);

export const updatePairInput = z
  .object({ boardingAddress: ipv4Schema, ...range })
  .partial()
  .refine((input) => Object.keys(input).length > 0, "nothing to change");

type Pair = typeof t.pairs.$inferSelect;

/**
 * Pairs a boarding address with a forward host and gives it a range of ports. The boarding host begins to relay the whole
 * range. Throws `not_found` when a host is unknown or of another role, `pair_overlaps`, `forward_full`, `conflict` without an address.
 */
export async function createPair(ctx: Context, input: z.infer<typeof pairInput>) {
  return transaction(ctx, async (tx) => {
    const boarding = await hostOfRole(tx, input.boardingHostId, "boarding");
    await hostOfRole(tx, input.forwardHostId, "forward");
    const boardingAddress = input.boardingAddress ?? boarding.publicAddress;
    if (boardingAddress === null) throw new AppError("conflict", "The boarding host has no public address yet.");
    const row: Pair = {
      id: makeId(ctx.ports, "par"),
      boardingHostId: boarding.id,
      boardingAddress,
      forwardHostId: input.forwardHostId,
      startPort: input.startPort,
      maxLoad: input.maxLoad,
      lastPort: null,
      createdAt: ctx.ports.clock.now(),
      retiredAt: null,
    };
    await checkRange(tx, row);
    await tx.db.insert(t.pairs).values(row);
    await tx.touchHosts([row.boardingHostId, row.forwardHostId], `ports ${portsOf(row)} paired (${row.id})`);
    await tx.audit("pair.create", row.id, null, viewPair(row));
    return viewPair(row);
  });
}

/**
 * Changes a pair's address or range. Connections keep their ports, so those in use must stay within the range. Throws
 * `not_found`, `pair_in_use`, `pair_overlaps`, `forward_full`, `validation_failed` for a range that ends above the last port.
 */
export async function updatePair(ctx: Context, id: Id<"par">, input: z.infer<typeof updatePairInput>) {
  return transaction(ctx, async (tx) => {
    const before = await requirePair(tx, id);
    const set = Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined));
    const after: Pair = { ...before, ...set };
    const end = after.startPort + after.maxLoad;
    if (end > 65_536) throw new AppError("validation_failed", BEYOND, { issues: [{ path: "", message: BEYOND }] });
    const used = await portsInUse(tx, id);
    if (used !== undefined && (used.least < after.startPort || used.most >= end))
      throw new AppError("pair_in_use", `Connections use ports ${used.least} to ${used.most}.`);
    await checkRange(tx, after);
    const { lastPort } = after;
    // The search for a free port goes on behind the last one, as long as that lies within the range.
    if (lastPort !== null && (lastPort < after.startPort || lastPort >= end)) after.lastPort = null;
    expectOne(
      await tx.db
        .update(t.pairs)
        .set({ ...set, lastPort: after.lastPort })
        .where(and(eq(t.pairs.id, id), isNull(t.pairs.retiredAt))),
      new AppError("not_found"),
    );
    await tx.touchHosts([after.boardingHostId], `pair ${id} changed: ports ${portsOf(before)} to ${portsOf(after)}`);
    await tx.audit("pair.update", id, viewPair(before), viewPair(after));
    return viewPair(after);
  });
}

/** Takes a pair apart; its range on the boarding host is free again. Throws `not_found`, `pair_in_use`. */
export async function deletePair(ctx: Context, id: Id<"par">): Promise<void> {
  await transaction(ctx, async (tx) => {
    const pair = await requirePair(tx, id);
    const used = await portsInUse(tx, id);
    if (used !== undefined)
      throw new AppError("pair_in_use", `${used.count} connections use it: drain its hosts, or wait for their end.`);
    expectOne(
      await tx.db
        .update(t.pairs)
        .set({ retiredAt: ctx.ports.clock.now() })
        .where(and(eq(t.pairs.id, id), isNull(t.pairs.retiredAt))),
      new AppError("not_found"),
    );
    await tx.touchHosts([pair.boardingHostId, pair.forwardHostId], `pair ${id} of ports ${portsOf(pair)} taken apart`);
    await tx.audit("pair.delete", id, viewPair(pair), null);
  });
}

/** The ranges of one boarding host lie apart, and a forward host gets no more ports than its state can hold. */
async function checkRange(tx: Transaction, pair: Pair): Promise<void> {
  const others = and(isNull(t.pairs.retiredAt), ne(t.pairs.id, pair.id));
  const [overlap] = await tx.db
    .select({ id: t.pairs.id })
    .from(t.pairs)
    .where(
      and(
        others,
        eq(t.pairs.boardingHostId, pair.boardingHostId),
        lt(t.pairs.startPort, pair.startPort + pair.maxLoad),
        lt(sql`${pair.startPort}`, sql`${t.pairs.startPort} + ${t.pairs.maxLoad}`),
      ),
    );
  if (overlap !== undefined) throw new AppError("pair_overlaps");
  const [held] = await tx.db
    .select({ ports: sum(t.pairs.maxLoad) })
    .from(t.pairs)
    .where(and(others, eq(t.pairs.forwardHostId, pair.forwardHostId)));
  const ports = Number(held?.ports ?? 0) + pair.maxLoad;
  if (ports > MOST_PORTS) throw new AppError("forward_full", `${ports} ports, and a host takes ${MOST_PORTS} at most.`);
}

async function portsInUse(tx: Transaction, id: Id<"par">) {
  const [used] = await tx.db
    .select({ count: count(), least: min(t.connections.port), most: max(t.connections.port) })
    .from(t.connections)
    .where(and(eq(t.connections.pairId, id), eq(t.connections.state, "active")));
  if (used === undefined || used.least === null || used.most === null) return undefined;
  return { count: used.count, least: used.least, most: used.most };
}

async function requirePair(tx: Transaction, id: Id<"par">): Promise<Pair> {
  const [pair] = await tx.db
    .select()
    .from(t.pairs)
    .where(and(eq(t.pairs.id, id), isNull(t.pairs.retiredAt)));
  if (pair === undefined) throw new AppError("not_found");
  return pair;
}

function portsOf({ startPort, maxLoad }: Pick<Pair, "startPort" | "maxLoad">): string {
  return `${startPort} to ${startPort + maxLoad - 1}`;
}

async function hostOfRole(tx: Transaction, id: Id<"hst">, role: "boarding" | "forward") {
  const [host] = await tx.db
    .select()
    .from(t.hosts)
    .where(and(eq(t.hosts.id, id), eq(t.hosts.role, role)));
  if (host === undefined || host.state === "retired")
    throw new AppError("not_found", `There is no ${role} host ${id}.`);
  return host;
}

export async function listPairs(ctx: Context) {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.pairs)
    .where(isNull(t.pairs.retiredAt))
    .orderBy(asc(t.pairs.id))
    .limit(1000);
  return { items: rows.map(viewPair) };
}
