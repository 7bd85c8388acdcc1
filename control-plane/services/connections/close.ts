import { and, eq, inArray } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { endConnection } from "./end.ts";
import { requireConnection } from "./read.ts";
import { viewConnection } from "./views.ts";

/**
 * Closes a connection: hosts drop the peer, the mapping and the running flows at once. Closing one that is closed changes
 * nothing and answers it as it is. With `waitMs` waits until the hosts have. Throws `not_found`.
 */
export async function closeConnection(ctx: Context, id: Id<"con">, waitMs: number) {
  const connection = await requireConnection(ctx, id);
  const { closed, revs } = await transaction(ctx, async (tx) => {
    const [current] = await tx.db
      .select()
      .from(t.connections)
      .where(and(eq(t.connections.id, id), eq(t.connections.state, "active")));
    const ended = current === undefined ? undefined : await endConnection(ctx, tx, connection.lineId, "closed");
    const hosts = await tx.db
      .select({ id: t.hosts.id, rev: t.hosts.desiredRev })
      .from(t.hosts)
      .where(inArray(t.hosts.id, [connection.forwardHostId, connection.exitHostId]));
    const rev = (hostId: Id<"hst">) => hosts.find((host) => host.id === hostId)?.rev ?? 0;
    return {
      closed: ended,
      revs: { forward: rev(connection.forwardHostId), exit: rev(connection.exitHostId) },
    };
  });
  const [forward = false, exit = false] = await ctx.ports.fleet.waitApplied(
    [
      { hostId: connection.forwardHostId, rev: revs.forward },
      { hostId: connection.exitHostId, rev: revs.exit },
    ],
    waitMs,
  );
  const [row] = await ctx.ports.db.read.select().from(t.connections).where(eq(t.connections.id, id));
  if (row === undefined) throw new AppError("not_found");
  return { ...viewConnection(closed ?? row), ready: { forward, exit } };
}
