import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import { HOST_STATES, type hosts, type pairs } from "../../db/schema/index.ts";
import { type PathView, pathView } from "../paths/read.ts";
import { instantView, iso } from "../views.ts";
import type { Use } from "./capacity.ts";
import { notUnderstood } from "./desired-state.ts";
import { isOnline } from "./reach.ts";

export const hostView = z.object({
  id: idSchema("hst"),
  role: hostRoleSchema,
  regionId: z.string(),
  name: z.string(),
  approved: z.boolean(),
  state: z.enum(HOST_STATES),
  publicAddress: z.string().nullable(),
  privateAddress: z.string().nullable(),
  privateNetwork: z.string().nullable(),
  outInterface: z.string().nullable(),
  relayDriver: z.enum(["nft", "socat"]),
  version: z.string(),
  wireguardPublicKey: z.string().nullable(),
  wireguardPort: z.number().int(),
  uplinkPort: z.number().int(),
  /** Most connections it takes (an exit: lines), by its own limit and its pairs' ports, and how many there are. */
  capacity: z.object({ limit: z.number().int().nullable(), most: z.number().int(), used: z.number().int() }),
  linkProxyPort: z.number().int(),
  /** Joined and answering, or not; since when; and for how long nothing was heard. Written every 10 s. */
  link: z.object({
    online: z.boolean(),
    /** The forward host it goes through; null for a direct one. */
    via: idSchema("hst").nullable(),
    since: instantView.nullable(),
    lastSeenAt: instantView.nullable(),
    silentMs: z.number().int().nullable(),
  }),
  /** What the host should hold and what it says it holds. `laggingSince`: when the first revision it has not applied was made. */
  configuration: z.object({
    desiredRev: z.number().int(),
    appliedRev: z.number().int().nullable(),
    appliedAt: instantView.nullable(),
    inSync: z.boolean(),
    laggingSince: instantView.nullable(),
    failingSince: instantView.nullable(),
    failed: z.array(z.object({ item: z.string(), error: z.string() })),
    /** Kinds of items that its agent is too old for, and that it goes without: it needs an upgrade. */
    notUnderstood: z.array(z.string()),
  }),
  /** The segments it sends to, as its probes found them. */
  path: pathView,
  observed: z.unknown(),
  facts: z.unknown(),
  createdAt: instantView,
});

/** What a view of a host needs beside its row. */
export type HostMore = { laggingSince: number | null; path: PathView | undefined; use: Use | undefined };

export function viewHost(
  row: typeof hosts.$inferSelect,
  now: number,
  { laggingSince, path, use = { ports: 0, used: 0 } }: HostMore,
): z.infer<typeof hostView> {
  const failed = (row.appliedResults ?? []).flatMap((r) =>
    r.ok ? [] : [{ item: r.item, error: r.error ?? "failed" }],
  );
  const online = isOnline(row, now);
  return {
    id: row.id,
    role: row.role,
    regionId: row.regionId,
    name: row.name,
    approved: row.approved,
    state: row.state === "online" && !online ? "offline" : row.state,
    publicAddress: row.publicAddress,
    privateAddress: row.privateAddress,
    privateNetwork: row.privateNetwork,
    outInterface: row.outInterface,
    relayDriver: row.relayDriver,
    version: row.version,
    wireguardPublicKey: row.wireguardPublicKey,
    wireguardPort: row.wireguardPort,
    uplinkPort: row.uplinkPort,
    capacity: { limit: row.capacity, most: Math.min(use.ports, row.capacity ?? use.ports), used: use.used },
    linkProxyPort: row.linkProxyPort,
    link: {
      online,
      via: row.linkVia,
      since: iso(online ? row.linkedAt : row.lastSeenAt),
      lastSeenAt: iso(row.lastSeenAt),
      silentMs: row.lastSeenAt === null ? null : Math.max(0, now - row.lastSeenAt),
    },
    configuration: {
      desiredRev: row.desiredRev,
      appliedRev: row.appliedRev,
      appliedAt: iso(row.appliedAt),
      inSync: row.appliedRev === row.desiredRev && failed.length === 0,
      laggingSince: iso(laggingSince),
      failingSince: iso(row.failingSince),
      failed,
      notUnderstood: notUnderstood(row),
    },
    path: path ?? { state: "unknown", segments: [] },
    observed: row.observed,
    facts: row.facts,
    createdAt: iso(row.createdAt),
  };
}

export const pairView = z.object({
  id: idSchema("par"),
  boardingHostId: idSchema("hst"),
  boardingAddress: z.string(),
  forwardHostId: idSchema("hst"),
  startPort: z.number().int(),
  maxLoad: z.number().int(),
});

export function viewPair(row: typeof pairs.$inferSelect): z.infer<typeof pairView> {
  const { id, boardingHostId, boardingAddress, forwardHostId, startPort, maxLoad } = row;
  return { id, boardingHostId, boardingAddress, forwardHostId, startPort, maxLoad };
}
