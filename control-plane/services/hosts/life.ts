import { and, eq, inArray, isNull, ne, or } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import type { HostState } from "../../db/schema/index.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, type Transaction, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { dependentHosts } from "./desired-state.ts";
import { presentHost } from "./present.ts";

/** A host's row. Throws `not_found`. */
export async function requireHost(tx: Pick<Transaction, "db">, id: Id<"hst">): Promise<typeof t.hosts.$inferSelect> {
  const [host] = await tx.db.select().from(t.hosts).where(eq(t.hosts.id, id));
  if (host === undefined) throw new AppError("not_found");
  return host;
}

/** One arrow of a host's life, by conditional update. */
async function move(ctx: Context, id: Id<"hst">, from: HostState[], to: HostState, otherwise: string) {
  return transaction(ctx, async (tx) => {
    const before = await requireHost(tx, id);
    expectOne(
      await tx.db
        .update(t.hosts)
        .set({ state: to })
        .where(and(eq(t.hosts.id, id), inArray(t.hosts.state, from), eq(t.hosts.approved, true))),
      new AppError("conflict", otherwise),
    );
    await tx.audit(`host.${to}`, id, { state: before.state }, { state: to });
    return presentHost(tx.db, { ...before, state: to }, ctx.ports.clock.now());
  });
}

/** No new connections and no new lines on this host; the old ones finish. Throws `not_found`, `conflict`. */
export function drainHost(ctx: Context, id: Id<"hst">) {
  return move(ctx, id, ["online", "offline"], "draining", "Only a host that takes connections can be drained.");
}

/** Takes a drained host back into use. Throws `not_found`, `conflict`. */
export function resumeHost(ctx: Context, id: Id<"hst">) {
  return move(ctx, id, ["draining"], "online", "Only a draining host can be taken back.");
}

/**
 * Removes a host for good: it is told to hold nothing, and once its hello says that it holds that, it is refused.
 * Throws `not_found`, `conflict` while a connection or a line still needs it.
 */
export async function retireHost(ctx: Context, id: Id<"hst">) {
  return transaction(ctx, async (tx) => {
    const before = await requireHost(tx, id);
    if (before.state === "retired") throw new AppError("conflict", "The host is retired already.");
    if (await isNeeded(tx, id))
      throw new AppError("conflict", "Connections or lines still need this host: drain it, or replace it by another.");
    await retire(ctx, tx, id);
    const after = await requireHost(tx, id);
    await tx.audit("host.retired", id, { state: before.state }, { state: "retired" });
    return presentHost(tx.db, after, ctx.ports.clock.now());
  });
}

/** The state, and the revisions of everyone whose desired state it changes. */
export async function retire(ctx: Context, tx: Transaction, id: Id<"hst">): Promise<void> {
  const dependent = await dependentHosts(tx.db, id);
  await tx.db.update(t.hosts).set({ state: "retired" }).where(eq(t.hosts.id, id));
  // Its pairs go with it: the ranges they hold on boarding hosts are free again.
  await tx.db
    .update(t.pairs)
    .set({ retiredAt: ctx.ports.clock.now() })
    .where(and(or(eq(t.pairs.boardingHostId, id), eq(t.pairs.forwardHostId, id)), isNull(t.pairs.retiredAt)));
  await tx.touchHosts(dependent, (hostId) =>
    hostId === id ? "retired: it should hold nothing" : `next hop ${id} retired`,
  );
}

async function isNeeded(tx: Transaction, id: Id<"hst">): Promise<boolean> {
  const [line] = await tx.db
    .select({ id: t.lines.id })
    .from(t.lines)
    .where(and(eq(t.lines.exitHostId, id), ne(t.lines.state, "deleted")))
    .limit(1);
  const [connection] = await tx.db
    .select({ id: t.connections.id })
    .from(t.connections)
    .innerJoin(t.pairs, eq(t.pairs.id, t.connections.pairId))
    .where(
      and(eq(t.connections.state, "active"), or(eq(t.connections.forwardHostId, id), eq(t.pairs.boardingHostId, id))),
    )
    .limit(1);
  return line !== undefined || connection !== undefined;
}
