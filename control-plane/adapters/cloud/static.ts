import { and, asc, eq, isNotNull, sql } from "drizzle-orm";
import { recordRevisions } from "../../db/revisions.ts";
import * as t from "../../db/schema/index.ts";
import { isUniqueViolation } from "../../db/transaction.ts";
import type { Cloud, Ports } from "../../ports/index.ts";

/**
 * The cloud of registered hosts: operators put exits and their addresses in place, a line takes one from its region's pool.
 * The unique index on `lines.exit_host_id` is what keeps two lines from sharing one.
 */
export function staticCloud(ports: Pick<Ports, "db" | "clock" | "random">): Cloud {
  const { db } = ports;
  return {
    async takeExit({ lineId, regionId }) {
      try {
        return await db.write(async (tx) => {
          const [line] = await tx.select().from(t.lines).where(eq(t.lines.id, lineId));
          if (line?.exitHostId) return { hostId: line.exitHostId };
          // A late worker must not give an exit to a line that was given up.
          if (line?.state !== "provisioning") return "wait";
          const [free] = await tx
            .select({ id: t.hosts.id })
            .from(t.hosts)
            .where(
              and(
                eq(t.hosts.role, "exit"),
                eq(t.hosts.regionId, regionId),
                eq(t.hosts.approved, true),
                sql`${t.hosts.state} NOT IN ('draining', 'retired')`,
                isNotNull(t.hosts.publicAddress),
                isNotNull(t.hosts.wireguardPublicKey),
                sql`NOT EXISTS (SELECT 1 FROM lines l WHERE l.exit_host_id = ${t.hosts.id} AND l.state <> 'deleted')`,
              ),
            )
            // A host that is up first; then the one that waits longest.
            .orderBy(sql`${t.hosts.state} <> 'online'`, asc(t.hosts.id))
            .limit(1);
          if (free === undefined) return "wait";
          await tx.update(t.lines).set({ exitHostId: free.id }).where(eq(t.lines.id, lineId));
          // From this commit on the exit's state holds the line's tunnel.
          const [raised] = await tx
            .update(t.hosts)
            .set({ desiredRev: sql`desired_rev + 1` })
            .where(eq(t.hosts.id, free.id))
            .returning({ rev: t.hosts.desiredRev });
          const changes = [`taken by line ${lineId}: its tunnel and whitelist added`];
          const causes = [{ action: "line.take_exit", subject: lineId }];
          const touched = new Map([[free.id, { rev: raised?.rev ?? 0, changes }]]);
          await recordRevisions(ports, tx, touched, { actor: "system:cloud", causes });
          return { hostId: free.id };
        });
      } catch (error) {
        if (isUniqueViolation(error, "lines.exit_host_id")) return "wait";
        throw error;
      }
    },
    async getAddress({ hostId }) {
      const [host] = await db.read.select().from(t.hosts).where(eq(t.hosts.id, hostId));
      return host?.publicAddress ? { address: host.publicAddress } : "wait";
    },
    async bindAddress() {
      // A registered host already holds its address.
      return "bound";
    },
  };
}
