import { and, eq } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import { activeConnection } from "../../db/indexed.ts";
import type { CloseReason } from "../../db/schema/index.ts";
import * as t from "../../db/schema/index.ts";
import type { Transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";

/**
 * Ends the line's active connection, if it has one, inside the caller's transaction. Its hosts get a new revision: they drop
 * the peer, the mapping and the running flows. Answers the connection that was ended.
 */
export async function endConnection(
  ctx: Context,
  tx: Transaction,
  lineId: Id<"lin">,
  reason: CloseReason,
): Promise<typeof t.connections.$inferSelect | undefined> {
  const [ended] = await tx.db
    .update(t.connections)
    .set({ state: "closed", closedAt: ctx.ports.clock.now(), closeReason: reason })
    .where(and(eq(t.connections.lineId, lineId), activeConnection))
    .returning();
  if (ended === undefined) return undefined;
  await tx.touchHosts([ended.forwardHostId, ended.exitHostId], (hostId) =>
    hostId === ended.exitHostId
      ? `peer of connection ${ended.id} removed (${reason})`
      : `relay of port ${ended.port} removed: connection ${ended.id} ended (${reason})`,
  );
  await tx.audit("connection.close", ended.id, { state: "active" }, { state: "closed", reason });
  return ended;
}
