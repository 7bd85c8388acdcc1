import { and, eq, isNotNull } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { interfaceSchema, ipv4Schema, isPrivateAddress, portSchema } from "../../../shared/protocol/values.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, type Transaction, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { nameSchema, slugSchema } from "../views.ts";
import { dependentHosts } from "./desired-state.ts";
import { viewHost } from "./views.ts";

export const updateHostInput = z
  .object({
    name: nameSchema,
    publicAddress: ipv4Schema.nullable(),
    privateAddress: ipv4Schema.refine(isPrivateAddress, "must be an address of a private network").nullable(),
    privateNetwork: slugSchema.nullable(),
    outInterface: interfaceSchema.nullable(),
    relayDriver: z.enum(["nft", "socat"]),
    wireguardPort: portSchema,
    uplinkPort: portSchema,
  })
  .partial()
  .refine((input) => Object.keys(input).length > 0, "nothing to change");

/** An operator changes what is known of a host. It and the hosts that send to it get a new state. Throws `not_found`. */
export async function updateHost(ctx: Context, id: Id<"hst">, input: z.infer<typeof updateHostInput>) {
  return transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.hosts).where(eq(t.hosts.id, id));
    if (before === undefined) throw new AppError("not_found");
    const set = Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined));
    await tx.db.update(t.hosts).set(set).where(eq(t.hosts.id, id));
    await moveAddress(tx, before, input.publicAddress ?? null);
    await tx.touchHosts(await dependentHosts(tx.db, id));
    const [after] = await tx.db.select().from(t.hosts).where(eq(t.hosts.id, id));
    if (after === undefined) throw new AppError("not_found");
    const now = ctx.ports.clock.now();
    await tx.audit("host.update", id, viewHost(before, now), viewHost(after, now));
    return viewHost(after, now);
  });
}

/** What customers are shown follows a corrected address: the endpoint of a boarding host's pairs, an exit's EIP. */
async function moveAddress(tx: Transaction, host: typeof t.hosts.$inferSelect, to: string | null): Promise<void> {
  if (to === null || to === host.publicAddress) return;
  if (host.publicAddress !== null)
    await tx.db
      .update(t.pairs)
      .set({ boardingAddress: to })
      .where(and(eq(t.pairs.boardingHostId, host.id), eq(t.pairs.boardingAddress, host.publicAddress)));
  await tx.db
    .update(t.lines)
    .set({ eip: to })
    .where(and(eq(t.lines.exitHostId, host.id), isNotNull(t.lines.eip)));
}

/** An operator lets an enrolled host in: from now on it gets a state. Throws `not_found`, `conflict` when it was let in before. */
export async function approveHost(ctx: Context, id: Id<"hst">) {
  return transaction(ctx, async (tx) => {
    const [before] = await tx.db.select().from(t.hosts).where(eq(t.hosts.id, id));
    if (before === undefined) throw new AppError("not_found");
    const now = ctx.ports.clock.now();
    // A pending host may be linked already; its session keeps `lastSeenAt` fresh, and that decides whether it is online.
    expectOne(
      await tx.db
        .update(t.hosts)
        .set({ approved: true, state: "online" })
        .where(and(eq(t.hosts.id, id), eq(t.hosts.approved, false), eq(t.hosts.state, "pending"))),
      new AppError("conflict", "Only a host that waits for approval can be let in."),
    );
    await tx.touchHosts([id]);
    await tx.audit("host.approve", id, { approved: false }, { approved: true });
    return viewHost({ ...before, approved: true, state: "online", desiredRev: before.desiredRev + 1 }, now);
  });
}
