import { and, eq, isNotNull } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { interfaceSchema, ipv4Schema, isPrivateAddress, portSchema } from "../../../shared/protocol/values.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, isUniqueViolation, type Transaction, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { nameSchema, slugSchema } from "../views.ts";
import { dependentHosts } from "./desired-state.ts";
import { requireHost } from "./life.ts";
import { presentHost } from "./present.ts";

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
    /** Most connections through a boarding or forward host; null leaves it to its pairs' ports. */
    capacity: z.number().int().min(0).max(100_000).nullable(),
    linkProxyPort: portSchema,
  })
  .partial()
  .refine((input) => Object.keys(input).length > 0, "nothing to change");

/** What other hosts' ways to the control plane depend on. */
const LINK_FIELDS = ["publicAddress", "privateAddress", "privateNetwork", "linkProxyPort"] as const;

/** An operator changes what is known of a host. It and the hosts that send to it get a new state. Throws `not_found`, `address_taken`. */
export async function updateHost(ctx: Context, id: Id<"hst">, input: z.infer<typeof updateHostInput>) {
  return transaction(ctx, async (tx) => {
    const before = await requireHost(tx, id);
    const set = Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined));
    // Those that found their way through the network it leaves must hear of it too.
    const moves = LINK_FIELDS.some((field) => field in set);
    const dependent = await dependentHosts(tx.db, id, { links: moves });
    await setOnRow(tx, id, set);
    await moveAddress(tx, before, input.publicAddress ?? null);
    dependent.push(...(await dependentHosts(tx.db, id, { links: moves })));
    await tx.touchHosts(dependent, `${Object.keys(set).join(", ")} of host ${id} changed`);
    const after = await requireHost(tx, id);
    await tx.audit("host.update", id, pickKeys(before, set), set);
    return presentHost(tx.db, after, ctx.ports.clock.now());
  });
}

async function setOnRow(tx: Transaction, id: Id<"hst">, set: Partial<typeof t.hosts.$inferInsert>): Promise<void> {
  try {
    await tx.db.update(t.hosts).set(set).where(eq(t.hosts.id, id));
  } catch (error) {
    if (isUniqueViolation(error, "hosts.public_address")) throw new AppError("address_taken");
    throw error;
  }
}

/** What the row held of what is set now. */
function pickKeys(row: typeof t.hosts.$inferSelect, set: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.keys(set).map((name) => [name, row[name as keyof typeof row]]));
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
    await requireHost(tx, id);
    // A pending host may be linked already; its session keeps `lastSeenAt` fresh, and that decides whether it is online.
    expectOne(
      await tx.db
        .update(t.hosts)
        .set({ approved: true, state: "online" })
        .where(and(eq(t.hosts.id, id), eq(t.hosts.approved, false), eq(t.hosts.state, "pending"))),
      new AppError("conflict", "Only a host that waits for approval can be let in."),
    );
    await tx.touchHosts(await dependentHosts(tx.db, id), (hostId) =>
      hostId === id ? "let in: from now on it gets a state" : `host ${id} was let in`,
    );
    await tx.audit("host.approve", id, { approved: false }, { approved: true });
    const after = await requireHost(tx, id);
    return presentHost(tx.db, after, ctx.ports.clock.now());
  });
}
