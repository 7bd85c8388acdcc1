import { and, eq, ne } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import { type Context, visibleOwner } from "../context.ts";
import { TUNNEL } from "../hosts/desired-state.ts";
import { viewLine } from "./views.ts";

export const lineUpdate = z.strictObject({
  /** 1280 is the least that IPv6 asks of a link, 1420 what fits 1500 less WireGuard's own; null is the usual one. */
  mtu: z.number().int().min(1280).max(1420).nullable(),
});

/**
 * Sets the MTU of a line's tunnel: its exit takes it at once, without losing a packet; a client takes it with its next
 * configuration. For operators, and for the owner, whose own path may be narrow. Throws `not_found`, `conflict`.
 */
export async function updateLine(ctx: Context, id: Id<"lin">, { mtu }: z.infer<typeof lineUpdate>) {
  const owner = visibleOwner(ctx);
  const mine = and(eq(t.lines.id, id), owner === undefined ? undefined : eq(t.lines.userId, owner));
  return transaction(ctx, async (tx) => {
    const [row] = await tx.db
      .select({ line: t.lines, resource: t.resources })
      .from(t.lines)
      .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
      .where(mine);
    if (row === undefined) throw new AppError("not_found");
    const { line, resource } = row;
    if (line.mtu === mtu) return viewLine(line, resource);
    expectOne(
      await tx.db
        .update(t.lines)
        .set({ mtu })
        .where(and(mine, ne(t.lines.state, "deleted"))),
      new AppError("conflict", "The line is deleted."),
    );
    if (line.exitHostId !== null)
      await tx.touchHosts([line.exitHostId], `tunnel of line ${id}: MTU ${mtu ?? TUNNEL.mtu}`);
    await tx.audit("line.update", id, { mtu: line.mtu }, { mtu });
    return viewLine({ ...line, mtu }, resource);
  });
}
