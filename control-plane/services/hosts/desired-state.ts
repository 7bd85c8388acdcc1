import { and, asc, eq, inArray, isNull, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { StateItem } from "../../../shared/protocol/desired-state.ts";
import { type Understands, understandsItem, understandsSchema } from "../../../shared/protocol/versions.ts";
import { activeConnection, inList, keptLine } from "../../db/indexed.ts";
import { prepared } from "../../db/prepared.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { linkItems, linkNeighbours } from "./link-ways.ts";
import { addressFrom } from "./reach.ts";
import { whitelists } from "./whitelists.ts";

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

/** What of a host's row its own state depends on. */
const OWN = {
  id: t.hosts.id,
  role: t.hosts.role,
  approved: t.hosts.approved,
  state: t.hosts.state,
  understands: t.hosts.understands,
  desiredRev: t.hosts.desiredRev,
  publicAddress: t.hosts.publicAddress,
  privateAddress: t.hosts.privateAddress,
  privateNetwork: t.hosts.privateNetwork,
  outInterface: t.hosts.outInterface,
  relayDriver: t.hosts.relayDriver,
  wireguardPort: t.hosts.wireguardPort,
  uplinkPort: t.hosts.uplinkPort,
  linkProxyPort: t.hosts.linkProxyPort,
};
type Own = Pick<Host, keyof typeof OWN>;

/** What of a host's row the states of those that send to it depend on. */
const OTHER = {
  state: t.hosts.state,
  publicAddress: t.hosts.publicAddress,
  privateAddress: t.hosts.privateAddress,
  privateNetwork: t.hosts.privateNetwork,
  wireguardPort: t.hosts.wireguardPort,
};

const IDS = sql.placeholder("ids");
const idsOf = (rows: readonly { id: string }[]) => ({ ids: JSON.stringify(rows.map(({ id }) => id)) });

const HOSTS = prepared((db) => db.select(OWN).from(t.hosts).where(inList(t.hosts.id, IDS)).prepare());

/** What one host should hold: a pure function of the database. Every change that alters it bumps the host's revision. */
export async function desiredState(db: Db, hostId: Id<"hst">): Promise<HostState | undefined> {
  return (await desiredStates(db, [hostId])).get(hostId);
}

/** The same for several hosts at the cost of about one. A host that there is not is missing from the answer. */
export async function desiredStates(db: Db, hostIds: readonly Id<"hst">[]): Promise<Map<Id<"hst">, HostState>> {
  const hosts = await HOSTS(db).all({ ids: JSON.stringify(hostIds) });
  const holding = hosts.filter((host) => host.approved && host.state !== "retired");
  const of = (role: Own["role"]) => holding.filter((host) => host.role === role);
  // Side by side: a database on another machine answers each with a round trip.
  const parts = await Promise.all([
    boardingItems(db, of("boarding")),
    forwardItems(db, of("forward")),
    exitItems(db, of("exit")),
    linkItems(db, holding),
  ]);
  return new Map(
    hosts.map((host) => [
      host.id,
      stateOf(
        host,
        parts.flatMap((part) => part.get(host.id) ?? []),
      ),
    ]),
  );
}

function stateOf(host: Own, items: readonly StateItem[]): HostState {
  const said = understandsOf(host);
  const withheld = new Set(items.map((item) => item.type).filter((kind) => !understandsItem(said, kind)));
  return {
    rev: host.desiredRev,
    items: items.filter((item) => !withheld.has(item.type)),
    withheld: [...withheld],
    retired: host.state === "retired",
  };
}

/** Of several hosts, by their ids, each one's in order. */
type Items = Map<Id<"hst">, StateItem[]>;

const PAIRS = prepared((db) =>
  db
    .select({
      id: t.pairs.id,
      boardingHostId: t.pairs.boardingHostId,
      startPort: t.pairs.startPort,
      maxLoad: t.pairs.maxLoad,
      forward: OTHER,
    })
    .from(t.pairs)
    .innerJoin(t.hosts, eq(t.hosts.id, t.pairs.forwardHostId))
    .where(and(inList(t.pairs.boardingHostId, IDS), isNull(t.pairs.retiredAt)))
    .orderBy(asc(t.pairs.id))
    .prepare(),
);

/**
 * A boarding host relays each pair's whole range to the same ports of its forward host; by nftables whatever its driver, since
 * socat would cross the clients of a burst.
 */
async function boardingItems(db: Db, hosts: readonly Own[]): Promise<Items> {
  if (hosts.length === 0) return new Map();
  const pairs = Map.groupBy(await PAIRS(db).all(idsOf(hosts)), (pair) => pair.boardingHostId);
  const itemOf = (
    host: Own,
    { id, startPort, maxLoad, forward }: NonNullable<ReturnType<typeof pairs.get>>[number],
  ) => {
    const address = addressFrom(host, forward);
    if (address === null || forward.state === "retired") return [];
    const listen = { from: startPort, to: startPort + maxLoad - 1 };
    return [{ type: "relay" as const, id, listen, to: { address, port: "same" as const }, driver: "nft" as const }];
  };
  return new Map(hosts.map((host) => [host.id, (pairs.get(host.id) ?? []).flatMap((pair) => itemOf(host, pair))]));
}

const MAPPINGS = prepared((db) =>
  db
    .select({
      id: t.connections.id,
      forwardHostId: t.connections.forwardHostId,
      port: t.connections.port,
      exit: OTHER,
    })
    .from(t.connections)
    .innerJoin(t.hosts, eq(t.hosts.id, t.connections.exitHostId))
    .where(and(inList(t.connections.forwardHostId, IDS), activeConnection))
    // As the index of active ports has them: in another order an index is taken that holds all closed ones too.
    .orderBy(asc(t.connections.forwardHostId), asc(t.connections.port))
    .prepare(),
);

/** A forward host relays one port a connection to that connection's exit, and takes other hosts' captures. */
async function forwardItems(db: Db, hosts: readonly Own[]): Promise<Items> {
  if (hosts.length === 0) return new Map();
  const connections = Map.groupBy(await MAPPINGS(db).all(idsOf(hosts)), (connection) => connection.forwardHostId);
  return new Map(
    hosts.map((host) => {
      const relays = (connections.get(host.id) ?? []).flatMap(({ id, port, exit }): StateItem[] => {
        const address = addressFrom(host, exit);
        if (address === null) return [];
        const to = { address, port: exit.wireguardPort };
        return [{ type: "relay", id, listen: { from: port, to: port }, to, driver: host.relayDriver }];
      });
      const { privateAddress: address, uplinkPort: port } = host;
      const uplink: StateItem[] = address === null ? [] : [{ type: "uplink", id: "uplink", address, port }];
      return [host.id, [...relays, ...uplink]];
    }),
  );
}

const LINES = prepared((db) =>
  db
    .select({
      id: t.lines.id,
      exitHostId: t.lines.exitHostId,
      userId: t.lines.userId,
      state: t.lines.state,
      mtu: t.lines.mtu,
      endsAt: t.resources.endsAt,
    })
    .from(t.lines)
    .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
    .where(and(inList(t.lines.exitHostId, IDS), keptLine, inArray(t.lines.state, ["provisioning", "active", "off"])))
    .prepare(),
);
const PEERS = prepared((db) =>
  db
    .select({ lineId: t.connections.lineId, publicKey: t.connections.clientPublicKey })
    .from(t.connections)
    .where(and(inList(t.connections.lineId, IDS), activeConnection))
    .prepare(),
);

/** An exit holds its line's tunnel, with the active connection's client as its peer, and the line's whitelist. */
async function exitItems(db: Db, hosts: readonly Own[]): Promise<Items> {
  if (hosts.length === 0) return new Map();
  const lines = new Map((await LINES(db).all(idsOf(hosts))).map((line) => [line.exitHostId, line]));
  const on = [...lines.values()].filter((line) => line.state !== "off");
  const [active, allowed] = await Promise.all([on.length === 0 ? [] : PEERS(db).all(idsOf(on)), whitelists(db, on)]);
  const peers = Map.groupBy(active, (peer) => peer.lineId);
  return new Map(
    hosts.map((host) => {
      const line = lines.get(host.id);
      if (line === undefined) return [host.id, []];
      const tunnel: StateItem = {
        type: "wireguard",
        id: "tunnel",
        interface: TUNNEL.interface,
        listenPort: host.wireguardPort,
        address: TUNNEL.exitAddress,
        mtu: line.mtu ?? TUNNEL.mtu,
        peers: (peers.get(line.id) ?? []).map(({ publicKey }) => ({
          publicKey,
          allowedIps: [TUNNEL.clientAddress],
          keepalive: 0,
          notAfter: line.endsAt,
        })),
      };
      const whitelist: StateItem = {
        type: "whitelist",
        id: "whitelist",
        interface: TUNNEL.interface,
        ...(allowed.get(line.id) ?? { cidrs: [], domains: [] }),
        outInterface: host.outInterface,
      };
      return [host.id, [tunnel, whitelist]];
    }),
  );
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
