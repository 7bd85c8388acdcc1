import { count, sql } from "drizzle-orm";
import { z } from "zod";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import * as t from "../../db/schema/index.ts";
import { HOST_STATES } from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { countDegraded } from "../paths/read.ts";
import { IS_FAILING, IS_LAGGING, shownState } from "./read.ts";

const counts = { hosts: z.number().int(), lagging: z.number().int(), failing: z.number().int() };

export const fleetView = z.object({
  ...counts,
  /** Hosts with a segment that is degraded now. */
  degradedPaths: z.number().int(),
  /** By the state as it is shown. */
  states: z.record(z.enum(HOST_STATES), z.number().int()),
  groups: z.array(
    z.object({
      role: hostRoleSchema,
      regionId: z.string(),
      state: z.enum(HOST_STATES),
      version: z.string(),
      ...counts,
    }),
  ),
});

/** The whole fleet in counts: how many hosts there are of each kind, and how many lag or fail. Retired ones are not counted. */
export async function readFleet(ctx: Context): Promise<z.infer<typeof fleetView>> {
  const state = shownState(ctx.ports.clock.now());
  const sum = (condition: typeof IS_LAGGING) => sql<number>`SUM(CASE WHEN ${condition} THEN 1 ELSE 0 END)`;
  const groups = await ctx.ports.db.read
    .select({
      role: t.hosts.role,
      regionId: t.hosts.regionId,
      state,
      version: t.hosts.version,
      hosts: count(),
      lagging: sum(IS_LAGGING),
      failing: sum(IS_FAILING),
    })
    .from(t.hosts)
    .where(sql`${t.hosts.state} <> 'retired'`)
    .groupBy(t.hosts.role, t.hosts.regionId, state, t.hosts.version)
    .orderBy(t.hosts.role, t.hosts.regionId);
  const total = (of: "hosts" | "lagging" | "failing", among = groups) => among.reduce((n, group) => n + group[of], 0);
  return {
    hosts: total("hosts"),
    lagging: total("lagging"),
    failing: total("failing"),
    degradedPaths: await countDegraded(ctx.ports.db.read, ctx.ports.clock.now()),
    states: Object.fromEntries(
      HOST_STATES.map((name) => [
        name,
        total(
          "hosts",
          groups.filter((group) => group.state === name),
        ),
      ]),
    ) as Record<t.HostState, number>,
    groups,
  };
}
