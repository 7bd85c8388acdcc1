import { and, eq, isNull, ne, or } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { endConnection } from "../connections/end.ts";
import type { Context } from "../context.ts";
import { dependentHosts } from "./desired-state.ts";
import { requireHost, retire } from "./life.ts";
import { presentHost } from "./present.ts";

export const replaceHostInput = z.object({
  byHostId: idSchema("hst"),
  /** The new host has the old one's public address: the machine was installed anew, or the address was moved to it. */
  keepAddress: z.boolean().optional(),
});

type Host = typeof t.hosts.$inferSelect;

/**
 * A new machine takes over everything of an old one, which is retired. Connections through a forward host go on through the new
 * one, and through a boarding host as long as clients still reach its address; an exit's clients must open again, as their new exit has another key and address.
 *
 * Throws `not_found`, `conflict` when the new host is of another role or region, is not let in, or is in use.
 */
export async function replaceHost(ctx: Context, id: Id<"hst">, input: z.infer<typeof replaceHostInput>) {
  return transaction(ctx, async (tx) => {
    const old = await requireHost(tx, id);
    const by = await requireHost(tx, input.byHostId);
    const publicAddress = addressAfter(old, by, input.keepAddress === true);
    await checkFree(tx, old, by);
    // Who depends on the old one now must hear of it too.
    const before = await dependentHosts(tx.db, old.id);
    await TAKE_OVER[old.role](ctx, tx, old, { ...by, publicAddress });
    await retire(ctx, tx, old.id);
    // Only now: no two exits that are not retired hold one address.
    if (input.keepAddress === true) await tx.db.update(t.hosts).set({ publicAddress }).where(eq(t.hosts.id, by.id));
    const dependent = [...before, ...(await dependentHosts(tx.db, by.id))];
    const revs = await tx.touchHosts(dependent, `host ${by.id} replaces ${old.id}`);
    // A connection's revision counts those of the host it is on: the old host's number says nothing of the new one.
    await tx.db
      .update(t.connections)
      .set({ forwardRev: revs.get(by.id) ?? 0 })
      .where(and(eq(t.connections.forwardHostId, by.id), eq(t.connections.state, "active")));
    const after = { state: "retired", by: by.id, publicAddress };
    await tx.audit("host.replaced", old.id, { state: old.state, publicAddress: old.publicAddress }, after);
    return presentHost(tx.db, await requireHost(tx, by.id), ctx.ports.clock.now());
  });
}

function refuse(why: string): never {
  throw new AppError("conflict", why);
}

/** The address that clients and destinations will see of the new host. */
function addressAfter(old: Host, by: Host, keep: boolean): string {
  if (keep && by.publicAddress !== null && by.publicAddress !== old.publicAddress)
    refuse("The new host has a public address of its own: take that away first, or leave keepAddress out.");
  const address = keep ? old.publicAddress : by.publicAddress;
  if (address !== null) return address;
  return refuse(
    keep
      ? "The old host has no public address to hand on."
      : "The new host has no public address yet: set it, or say keepAddress if it is the old host's.",
  );
}

async function checkFree(tx: Transaction, old: Host, by: Host): Promise<void> {
  if (old.id === by.id || old.role !== by.role) refuse("The new host must be another one of the same role.");
  if (old.regionId !== by.regionId) refuse("The new host must be of the same region: lines are sold by it.");
  if (old.state === "retired") refuse("The old host is retired already.");
  if (!by.approved || by.state === "retired") refuse("The new host is not let in.");
  const [pair] = await tx.db
    .select({ id: t.pairs.id })
    .from(t.pairs)
    .where(and(or(eq(t.pairs.boardingHostId, by.id), eq(t.pairs.forwardHostId, by.id)), isNull(t.pairs.retiredAt)))
    .limit(1);
  const [line] = await tx.db
    .select({ id: t.lines.id })
    .from(t.lines)
    .where(and(eq(t.lines.exitHostId, by.id), ne(t.lines.state, "deleted")))
    .limit(1);
  if (pair !== undefined || line !== undefined) refuse("The new host is in use.");
}

type TakeOver = (ctx: Context, tx: Transaction, old: Host, by: Host & { publicAddress: string }) => Promise<void>;

const TAKE_OVER: Readonly<Record<Host["role"], TakeOver>> = {
  async boarding(_ctx, tx, old, by) {
    await tx.db.update(t.pairs).set({ boardingHostId: by.id }).where(eq(t.pairs.boardingHostId, old.id));
    // A pair that clients reach by the old host's own address moves with it; any other address was moved by hand.
    if (old.publicAddress !== null)
      await tx.db
        .update(t.pairs)
        .set({ boardingAddress: by.publicAddress })
        .where(and(eq(t.pairs.boardingHostId, by.id), eq(t.pairs.boardingAddress, old.publicAddress)));
  },
  async forward(_ctx, tx, old, by) {
    await tx.db.update(t.pairs).set({ forwardHostId: by.id }).where(eq(t.pairs.forwardHostId, old.id));
    await tx.db
      .update(t.connections)
      .set({ forwardHostId: by.id })
      .where(and(eq(t.connections.forwardHostId, old.id), eq(t.connections.state, "active")));
  },
  async exit(ctx, tx, old, by) {
    const lines = await tx.db
      .select()
      .from(t.lines)
      .where(and(eq(t.lines.exitHostId, old.id), ne(t.lines.state, "deleted")));
    for (const line of lines) {
      await endConnection(ctx, tx, line.id, "replaced");
      await tx.db.update(t.lines).set({ exitHostId: by.id, eip: by.publicAddress }).where(eq(t.lines.id, line.id));
      await tx.audit(
        "line.exit",
        line.id,
        { exitHostId: old.id, eip: line.eip },
        { exitHostId: by.id, eip: by.publicAddress },
      );
    }
  },
};
