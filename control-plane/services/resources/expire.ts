import { and, eq } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { endConnection } from "../connections/end.ts";
import type { Context } from "../context.ts";

/**
 * The end of a resource: powers it off. Reads it again first: when its end has moved (or the clock went back), it says how long is left, and the job comes again then. Hosts
 * drop the configuration within seconds, and enforce the end by themselves should the control plane be away.
 */
export async function expireResource(
  ctx: Context,
  resourceId: Id<"res">,
): Promise<"expired" | "ended" | { endsInMs: number }> {
  const now = ctx.ports.clock.now();
  return transaction(ctx, async (tx) => {
    const [resource] = await tx.db.select().from(t.resources).where(eq(t.resources.id, resourceId));
    if (resource === undefined || resource.state !== "running") return "ended" as const;
    if (resource.endsAt > now) return { endsInMs: resource.endsAt - now };
    await tx.db
      .update(t.resources)
      .set({ state: "expired" })
      .where(and(eq(t.resources.id, resourceId), eq(t.resources.state, "running")));
    await powerOff(ctx, tx, resourceId);
    await tx.audit("resource.expire", resourceId, { state: "running" }, { state: "expired", endsAt: resource.endsAt });
    return "expired" as const;
  });
}

async function powerOff(ctx: Context, tx: Transaction, resourceId: Id<"res">): Promise<void> {
  const [line] = await tx.db
    .update(t.lines)
    .set({ state: "off" })
    .where(and(eq(t.lines.resourceId, resourceId), eq(t.lines.state, "active")))
    .returning();
  if (line === undefined) return;
  await endConnection(ctx, tx, line.id, "expired");
  if (line.exitHostId !== null)
    await tx.touchHosts([line.exitHostId], `line ${line.id} is at its end: nothing may pass any more`);
}
