import { and, asc, eq, lt, sql } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import { ipv4Schema } from "../../../shared/protocol/values.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { viewPair } from "./views.ts";

export const pairInput = z
  .object({
    boardingHostId: idSchema("hst"),
    forwardHostId: idSchema("hst"),
    /** The address clients connect to; the boarding host's public one when absent. */
    boardingAddress: ipv4Schema.optional(),
    startPort: z.number().int().min(1024).max(65_535).default(30_000),
    maxLoad: z.number().int().min(1).max(10_000).default(200),
  })
  .refine((p) => p.startPort + p.maxLoad <= 65_536, "the range ends above port 65535");

/**
 * Pairs a boarding address with a forward host and gives it a range of ports. The boarding host begins to relay the whole
 * range. Throws `not_found` when a host is unknown or of another role, `pair_overlaps`, `conflict` without an address.
 */
export async function createPair(ctx: Context, input: z.infer<typeof pairInput>) {
  return transaction(ctx, async (tx) => {
    const boarding = await hostOfRole(tx, input.boardingHostId, "boarding");
    await hostOfRole(tx, input.forwardHostId, "forward");
    const boardingAddress = input.boardingAddress ?? boarding.publicAddress;
    if (boardingAddress === null) throw new AppError("conflict", "The boarding host has no public address yet.");
    const [overlap] = await tx.db
      .select({ id: t.pairs.id })
      .from(t.pairs)
      .where(
        and(
          eq(t.pairs.boardingHostId, boarding.id),
          lt(t.pairs.startPort, input.startPort + input.maxLoad),
          lt(sql`${input.startPort}`, sql`${t.pairs.startPort} + ${t.pairs.maxLoad}`),
        ),
      );
    if (overlap !== undefined) throw new AppError("pair_overlaps");
    const row: typeof t.pairs.$inferSelect = {
      id: makeId(ctx.ports, "par"),
      boardingHostId: boarding.id,
      boardingAddress,
      forwardHostId: input.forwardHostId,
      startPort: input.startPort,
      maxLoad: input.maxLoad,
      lastPort: null,
      createdAt: ctx.ports.clock.now(),
    };
    await tx.db.insert(t.pairs).values(row);
    await tx.touchHosts([row.boardingHostId, row.forwardHostId], `ports ${portsOf(row)} paired (${row.id})`);
    await tx.audit("pair.create", row.id, null, viewPair(row));
    return viewPair(row);
  });
}

function portsOf({ startPort, maxLoad }: { startPort: number; maxLoad: number }): string {
  return `${startPort} to ${startPort + maxLoad - 1}`;
}

async function hostOfRole(tx: Transaction, id: Id<"hst">, role: "boarding" | "forward") {
  const [host] = await tx.db
    .select()
    .from(t.hosts)
    .where(and(eq(t.hosts.id, id), eq(t.hosts.role, role)));
  if (host === undefined) throw new AppError("not_found", `There is no ${role} host ${id}.`);
  return host;
}

export async function listPairs(ctx: Context) {
  const rows = await ctx.ports.db.read.select().from(t.pairs).orderBy(asc(t.pairs.id)).limit(1000);
  return { items: rows.map(viewPair) };
}
