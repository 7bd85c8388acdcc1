import { and, asc, eq, inArray, isNull } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { StateItem } from "../../../shared/protocol/desired-state.ts";
import { type Understands, understandsItem, understandsSchema } from "../../../shared/protocol/versions.ts";
import { activeConnection, keptLine } from "../../db/indexed.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { linkItems, linkNeighbours } from "./link-ways.ts";
import { addressFrom } from "./reach.ts";
import { unionOf } from "./whitelist-size.ts";

/** The tunnel as every exit has it. One client a line, always the same address. */
export const TUNNEL = {
  interface: "tl0",
  exitAddress: "10.13.13.1/24",
  clientAddress: "10.13.13.2/32",
  mtu: 1392,
  clientKeepaliveS: 25,
} as const;

type Host = typeof t.hosts.$inferSelect;

export type HostState = {
  rev: number;
  items: StateItem[];
  /** Kinds of items it should hold too, and that its agent does not understand: it must be upgraded. */
  withheld: StateItem["type"][];
  retired: boolean;
};

/** The kinds of items that a host's role can be asked to hold. */
const KINDS_OF_ROLE: Readonly<Record<Host["role"], readonly StateItem["type"][]>> = {
  boarding: ["relay", "linkWays"],
  forward: ["relay", "uplink", "linkProxy", "linkWays"],
  exit: ["wireguard", "whitelist", "linkWays"],
};

/** Kinds of items that a host may have to hold and its agent does not understand: it should be upgraded. */
export function notUnderstood(host: Pick<Host, "role" | "understands">): StateItem["type"][] {
  const said = understandsOf(host);
  return KINDS_OF_ROLE[host.role].filter((kind) => !understandsItem(said, kind));
}

/** What a host's agent said it understands. */
export function understandsOf(host: Pick<Host, "understands">): Understands | null {
  return host.understands === null ? null : understandsSchema.parse(JSON.parse(host.understands));
}

/** What one host should hold: a pure function of the database. Every change that alters it bumps the host's revision. */
export async function desiredState(db: Db, hostId: Id<"hst">): Promise<HostState | undefined> {
  const [host] = await db.select().from(t.hosts).where(eq(t.hosts.id, hostId));
  if (host === undefined) return undefined;
  const retired = host.state === "retired";
  if (!host.approved || retired) return { rev: host.desiredRev, items: [], withheld: [], retired };
  const items = [
    ...(await { boarding: boardingItems, forward: forwardItems, exit: exitItems }[host.role](db, host)),
    ...(await linkItems(db, host)),
  ];
  const said = understandsOf(host);
  const withheld = new Set(items.map((item) => item.type).filter((kind) => !understandsItem(said, kind)));
  return {
    rev: host.desiredRev,
    items: items.filter((item) => !withheld.has(item.type)),
    withheld: [...withheld],
    retired,
  };
}

/**
 * A boarding host relays each pair's whole range to the same ports of its forward host; by nftables whatever its driver, since
 * socat would cross the clients of a burst.
 */
async function boardingItems(db: Db, host: Host): Promise<StateItem[]> {
  const rows = await db
    .select({ pair: t.pairs, forward: t.hosts })
    .from(t.pairs)
    .innerJoin(t.hosts, eq(t.hosts.id, t.pairs.forwardHostId))
    .where(and(eq(t.pairs.boardingHostId, host.id), isNull(t.pairs.retiredAt)))
    .orderBy(asc(t.pairs.id));
  return rows.flatMap(({ pair, forward }): StateItem[] => {
    const address = addressFrom(host, forward);
    if (address === null || forward.state === "retired") return [];
    const listen = { from: pair.startPort, to: pair.startPort + pair.maxLoad - 1 };
    return [{ type: "relay", id: pair.id, listen, to: { address, port: "same" }, driver: "nft" }];
  });
}

/** A forward host relays one port a connection to that connection's exit, and takes other hosts' captures. */
async function forwardItems(db: Db, host: Host): Promise<StateItem[]> {
  const rows = await db
    .select({ connection: t.connections, exit: t.hosts })
    .from(t.connections)
    .innerJoin(t.hosts, eq(t.hosts.id, t.connections.exitHostId))
    .where(and(eq(t.connections.forwardHostId, host.id), activeConnection))
    .orderBy(asc(t.connections.port));
  const relays = rows.flatMap(({ connection, exit }): StateItem[] => {
    const address = addressFrom(host, exit);
    if (address === null) return [];
    const listen = { from: connection.port, to: connection.port };
    const to = { address, port: exit.wireguardPort };
    return [{ type: "relay", id: connection.id, listen, to, driver: host.relayDriver }];
  });
  const uplink: StateItem[] =
    host.privateAddress === null
      ? []
      : [{ type: "uplink", id: "uplink", address: host.privateAddress, port: host.uplinkPort }];
  return [...relays, ...uplink];
}

/** An exit holds its line's tunnel, with the active connection's client as its peer, and the line's whitelist. */
async function exitItems(db: Db, host: Host): Promise<StateItem[]> {
  const [found] = await db
    .select({ line: t.lines, endsAt: t.resources.endsAt })
    .from(t.lines)
    .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
    .where(and(eq(t.lines.exitHostId, host.id), keptLine, inArray(t.lines.state, ["provisioning", "active", "off"])));
  if (found === undefined) return [];
  const { line, endsAt } = found;
  const on = line.state !== "off";
  const peers = on
    ? await db
        .select()
        .from(t.connections)
        .where(and(eq(t.connections.lineId, line.id), activeConnection))
    : [];
  return [
    {
      type: "wireguard",
      id: "tunnel",
      interface: TUNNEL.interface,
      listenPort: host.wireguardPort,
      address: TUNNEL.exitAddress,
      mtu: line.mtu ?? TUNNEL.mtu,
      peers: peers.map((connection) => ({
        publicKey: connection.clientPublicKey,
        allowedIps: [TUNNEL.clientAddress],
        keepalive: 0,
        notAfter: endsAt,
      })),
    },
    {
      type: "whitelist",
      id: "whitelist",
      interface: TUNNEL.interface,
      ...(on ? await allowed(db, line) : { cidrs: [], domains: [] }),
      outInterface: host.outInterface,
    },
  ];
}

/** The account's own list when it has one, otherwise the union of the line's service types; each entry once. */
async function allowed(db: Db, line: typeof t.lines.$inferSelect): Promise<{ cidrs: string[]; domains: string[] }> {
  const own = await db.select().from(t.accountWhitelists).where(eq(t.accountWhitelists.userId, line.userId));
  const lists =
    own.length > 0
      ? own
      : await db
          .select({ cidrs: t.serviceTypes.cidrs, domains: t.serviceTypes.domains })
          .from(t.lineServiceTypes)
          .innerJoin(t.serviceTypes, eq(t.serviceTypes.id, t.lineServiceTypes.serviceTypeId))
          .where(eq(t.lineServiceTypes.lineId, line.id));
  return unionOf(lists);
}

/**
 * The hosts whose state depends on this one's row: itself, those that send to it, and with `links` those that find their way to
 * the control plane through it or are let through by it.
 */
export async function dependentHosts(db: Db, hostId: Id<"hst">, { links = true } = {}): Promise<Id<"hst">[]> {
  const boardings = await db
    .select({ id: t.pairs.boardingHostId })
    .from(t.pairs)
    .where(and(eq(t.pairs.forwardHostId, hostId), isNull(t.pairs.retiredAt)));
  const forwards = await db
    .selectDistinct({ id: t.connections.forwardHostId })
    .from(t.connections)
    .where(and(eq(t.connections.exitHostId, hostId), activeConnection));
  const neighbours = links ? await linkNeighbours(db, hostId) : [];
  return [...new Set([hostId, ...[...boardings, ...forwards].map((row) => row.id), ...neighbours])];
}
