import { and, desc, eq, inArray } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import * as t from "../../db/schema/index.ts";
import { connectionView, viewConnection } from "../connections/views.ts";
import type { Context } from "../context.ts";
import { presentHosts } from "../hosts/present.ts";
import { hostView } from "../hosts/views.ts";
import { segmentView } from "../paths/read.ts";
import { instantView, iso } from "../views.ts";
import { findingsOf, findingView, type HopFacts } from "./findings.ts";
import { lineView, viewLine } from "./views.ts";

const hopView = hostView
  .pick({ name: true, regionId: true, state: true, version: true, link: true, configuration: true })
  .extend({
    role: hostRoleSchema,
    hostId: idSchema("hst"),
    /** Where the hop before reaches it, or, of the boarding host, clients do. */
    address: z.string().nullable(),
    /** Whether it holds what the connection needs there; null without a connection. */
    holdsConnection: z.boolean().nullable(),
    /** The segment from here to the next hop, of an exit to its gateway; null as long as it was not probed. */
    path: segmentView.nullable(),
  });

export const diagnosisView = z.object({
  at: instantView,
  line: lineView,
  findings: z.array(findingView),
  /** The open connection, or the last one there was. */
  connection: connectionView.nullable(),
  /** The way in the order packets take it: link, configuration and path of each host apart. */
  hops: z.array(hopView),
  /** The client as the exit sees it; null when it sees no such peer. */
  client: z
    .object({
      lastHandshakeAt: instantView.nullable(),
      handshakeAgeMs: z.number().int().nullable(),
      rxBytes: z.number(),
      txBytes: z.number(),
    })
    .nullable(),
  /** Flows there are now and bytes so far of the connection on the forward host. */
  relay: z.object({ flows: z.number().int(), bytes: z.number() }).nullable(),
  whitelist: z
    .object({ entries: z.number().int(), deniedPackets: z.number(), deniedNames: z.number().int() })
    .nullable(),
});

type Host = typeof t.hosts.$inferSelect;
type Connection = typeof t.connections.$inferSelect;

/**
 * "Why can't I connect" in one answer: what is wrong, in words and with codes, and the facts behind it: expiry, the
 * connection, link and configuration of each host, the client's handshake and bytes, denials. Throws `not_found`.
 */
export async function diagnoseLine(ctx: Context, lineId: Id<"lin">): Promise<z.infer<typeof diagnosisView>> {
  const db = ctx.ports.db.read;
  const now = ctx.ports.clock.now();
  const [found] = await db
    .select({ line: t.lines, resource: t.resources })
    .from(t.lines)
    .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
    .where(eq(t.lines.id, lineId));
  if (found === undefined) throw new AppError("not_found");
  const [last] = await db
    .select({ connection: t.connections, pair: t.pairs })
    .from(t.connections)
    .innerJoin(t.pairs, eq(t.pairs.id, t.connections.pairId))
    .where(eq(t.connections.lineId, lineId))
    .orderBy(desc(t.connections.id))
    .limit(1);
  const open = last?.connection.state === "active" ? last : undefined;
  const ids = [open?.pair.boardingHostId, open?.connection.forwardHostId, found.line.exitHostId].filter(
    (id): id is Id<"hst"> => id != null,
  );
  const hosts =
    ids.length === 0
      ? []
      : await db
          .select()
          .from(t.hosts)
          .where(and(inArray(t.hosts.id, ids)));
  const hops = ids.flatMap((id) => hosts.find((host) => host.id === id) ?? []);
  const views = await presentHosts(db, hops, now);
  const exit = hops.find((host) => host.role === "exit");
  const forward = hops.find((host) => host.role === "forward");

  const peer = open && peerOf(exit, open.connection);
  const relay = forward && open ? relayOf(forward, open.connection) : null;
  const whitelist = whitelistOf(exit);
  // From each hop to the next; the exit's is the one that ends at no host of ours.
  const segments = hops.map((host, i) => {
    const to = host.role === "exit" ? null : (hops[i + 1]?.id ?? host.id);
    return views[i]?.path.segments.find((segment) => segment.toHostId === to) ?? null;
  });
  const facts = hops.map((host, i): HopFacts => {
    const view = views[i] as (typeof views)[number];
    const items = itemsOf(host, open);
    return {
      role: host.role,
      hostId: host.id,
      state: view.state,
      online: view.link.online,
      silentMs: view.link.silentMs,
      desiredRev: host.desiredRev,
      appliedRev: host.appliedRev,
      neededRev: neededRev(host, open?.connection),
      failed: view.configuration.failed.filter(({ item }) => items.includes(item)),
      degraded: segments[i]?.state === "degraded" ? { target: segments[i].target, ...segments[i].last } : null,
    };
  });
  return {
    at: iso(now),
    line: viewLine(found.line, found.resource),
    findings: findingsOf({
      now,
      line: { state: found.line.state, endsAt: found.resource.endsAt },
      connection: open?.connection ?? null,
      hops: facts,
      relay,
      peer,
      whitelist,
    }),
    connection: last === undefined ? null : viewConnection(last.connection),
    hops: hops.map((host, i) => {
      const { name, regionId, state, version, link, configuration, publicAddress } = views[i] as (typeof views)[number];
      const fact = facts[i] as HopFacts;
      const held = fact.neededRev === null || (host.appliedRev ?? -1) >= fact.neededRev;
      return {
        role: host.role,
        hostId: host.id,
        name,
        regionId,
        state,
        version,
        link,
        configuration,
        address: host.role === "boarding" ? (open?.pair.boardingAddress ?? publicAddress) : publicAddress,
        holdsConnection: open === undefined ? null : held && fact.failed.length === 0,
        path: segments[i] ?? null,
      };
    }),
    client: peer
      ? {
          lastHandshakeAt: iso(peer.lastHandshakeAt),
          handshakeAgeMs: peer.lastHandshakeAt === null ? null : Math.max(0, now - peer.lastHandshakeAt),
          rxBytes: peer.rxBytes,
          txBytes: peer.txBytes,
        }
      : null,
    relay,
    whitelist,
  };
}

/** The items of a host that carry this line. */
function itemsOf(host: Host, open: { connection: Connection; pair: { id: string } } | undefined): string[] {
  if (host.role === "exit") return ["tunnel", "whitelist"];
  if (open === undefined) return [];
  return [host.role === "forward" ? open.connection.id : open.pair.id];
}

function neededRev(host: Host, connection: Connection | undefined): number | null {
  if (connection === undefined || host.role === "boarding") return null;
  return host.role === "forward" ? connection.forwardRev : connection.exitRev;
}

function peerOf(exit: Host | undefined, connection: Connection) {
  const seen = exit?.observed?.wireguard;
  if (seen === undefined) return undefined;
  return seen.flatMap((tunnel) => tunnel.peers).find((peer) => peer.publicKey === connection.clientPublicKey) ?? null;
}

function relayOf(forward: Host, connection: Connection) {
  const seen = forward.observed?.relays?.find((relay) => relay.item === connection.id);
  return seen === undefined ? null : { flows: seen.flows, bytes: seen.bytes ?? 0 };
}

function whitelistOf(exit: Host | undefined) {
  const seen = exit?.observed?.whitelist?.find((whitelist) => whitelist.item === "whitelist");
  if (seen === undefined) return null;
  const { entries, deniedPackets, addresses = 0, deniedNames = 0 } = seen;
  return { entries: entries + addresses, deniedPackets, deniedNames };
}
