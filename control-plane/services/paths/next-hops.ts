import { and, eq, isNull } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { addressFrom } from "../hosts/reach.ts";

/** Stands for an exit's gateway, whose address only the exit knows. */
export const GATEWAY = "gateway";

/** Whom a host sends to, by address: a boarding host its forwards, a forward its connections' exits, an exit its gateway. */
export async function nextHops(db: Db, hostId: Id<"hst">): Promise<Map<string, Id<"hst"> | null>> {
  const [host] = await db.select().from(t.hosts).where(eq(t.hosts.id, hostId));
  if (host === undefined) return new Map();
  if (host.role === "exit") return new Map([[GATEWAY, null]]);
  const rows =
    host.role === "boarding"
      ? await db
          .select({ next: t.hosts })
          .from(t.pairs)
          .innerJoin(t.hosts, eq(t.hosts.id, t.pairs.forwardHostId))
          .where(and(eq(t.pairs.boardingHostId, hostId), isNull(t.pairs.retiredAt)))
      : await db
          .select({ next: t.hosts })
          .from(t.connections)
          .innerJoin(t.hosts, eq(t.hosts.id, t.connections.exitHostId))
          .where(and(eq(t.connections.forwardHostId, hostId), eq(t.connections.state, "active")));
  return new Map(
    rows.flatMap(({ next }) => {
      const address = addressFrom(host, next);
      return address === null ? [] : [[address, next.id] as const];
    }),
  );
}
