import { and, eq, isNull, ne, or, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { StateItem } from "../../../shared/protocol/desired-state.ts";
import { isPrivateAddress } from "../../../shared/protocol/values.ts";
import { inList } from "../../db/indexed.ts";
import { prepared } from "../../db/prepared.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { addressFrom } from "./reach.ts";

/**
 * Ways to the control plane for hosts whose direct one is blocked: through the forward hosts of their private network, and
 * through those they are paired with.
 */

/** What counts of a host here: a network may have thousands of them. */
const COLUMNS = {
  id: t.hosts.id,
  role: t.hosts.role,
  publicAddress: t.hosts.publicAddress,
  privateAddress: t.hosts.privateAddress,
  privateNetwork: t.hosts.privateNetwork,
  linkProxyPort: t.hosts.linkProxyPort,
};
type Host = Pick<typeof t.hosts.$inferSelect, keyof typeof COLUMNS>;

/** So many ways are named to a host: with more it would only take longer to come back to the first. */
const MOST_WAYS = 4;
/** Above so many sources, wider networks are named instead: the state of a forward host must not grow with every exit. */
const MOST_SOURCES = 256;

/** What hosts should hold of this, by their ids: where each passes others on, and who passes it on. */
export async function linkItems(db: Db, hosts: readonly Host[]): Promise<Map<Id<"hst">, StateItem[]>> {
  const neighbours = await neighboursOf(db, hosts);
  return new Map(hosts.map((host) => [host.id, itemsOf(host, neighbours.get(host.id) ?? [])]));
}

function itemsOf(host: Host, neighbours: readonly Host[]): StateItem[] {
  const forwards = neighbours.filter((one) => one.role === "forward");
  // Each host begins with another one, so that a blocked region does not come to one forward host as a whole.
  const first =
    [...host.id].reduce((sum, character) => sum + character.charCodeAt(0), 0) % Math.max(1, forwards.length);
  const turned = [...forwards.slice(first), ...forwards.slice(0, first)];
  const via = turned.slice(0, MOST_WAYS).flatMap((forward) => {
    const address = addressFrom(host, forward);
    return address === null ? [] : [{ hostId: forward.id, address, port: forward.linkProxyPort }];
  });
  const ways: StateItem[] = via.length === 0 ? [] : [{ type: "linkWays", id: "link-ways", via }];
  return host.role === "forward" ? [...proxyItems(host, neighbours), ...ways] : ways;
}

/** A forward host listens on its private address, or everywhere once a host outside its private network is to come. */
function proxyItems(host: Host, neighbours: readonly Host[]): StateItem[] {
  const sources = [
    ...new Set(neighbours.map((one) => addressFrom(host, one)).filter((address) => address !== null)),
  ].sort();
  if (sources.length === 0) return [];
  const isPrivate = host.privateAddress !== null && sources.every(isPrivateAddress);
  const address = isPrivate && host.privateAddress !== null ? host.privateAddress : "0.0.0.0";
  return [{ type: "linkProxy", id: "link-proxy", address, port: host.linkProxyPort, allow: allowed(sources) }];
}

/** Networks that hold all of these addresses: themselves, or when that is too many, the longest of three lengths that is not. */
export function allowed(sources: readonly string[]): string[] {
  const networks = (octets: number) => {
    const tail = [".0", ".0", ".0"].slice(0, 4 - octets).join("");
    return [...new Set(sources.map((a) => `${a.split(".").slice(0, octets).join(".")}${tail}/${octets * 8}`))];
  };
  // There are 256 of the last length at most.
  return [4, 3, 2, 1].map(networks).find((list) => list.length <= MOST_SOURCES) ?? [];
}

const IDS = sql.placeholder("ids");
const NETWORKS = sql.placeholder("networks");
const LIVE = and(eq(t.hosts.approved, true), ne(t.hosts.state, "retired"));

const BY_ID = prepared((db) => db.select(COLUMNS).from(t.hosts).where(inList(t.hosts.id, IDS)).prepare());
const PAIRED = prepared((db) =>
  db
    .select(COLUMNS)
    .from(t.hosts)
    .where(and(LIVE, inList(t.hosts.id, IDS)))
    .prepare(),
);
const IN_NETWORKS = prepared((db) =>
  db
    .select(COLUMNS)
    .from(t.hosts)
    .where(and(LIVE, inList(t.hosts.privateNetwork, NETWORKS)))
    .prepare(),
);
const FORWARDS_IN_NETWORKS = prepared((db) =>
  db
    .select(COLUMNS)
    .from(t.hosts)
    .where(and(LIVE, inList(t.hosts.privateNetwork, NETWORKS), eq(t.hosts.role, "forward")))
    .prepare(),
);
const PAIRS = prepared((db) =>
  db
    .select({ boarding: t.pairs.boardingHostId, forward: t.pairs.forwardHostId })
    .from(t.pairs)
    .where(and(isNull(t.pairs.retiredAt), or(inList(t.pairs.boardingHostId, IDS), inList(t.pairs.forwardHostId, IDS))))
    .prepare(),
);

/** The hosts whose ways or pass-through depend on this one's row. */
export async function linkNeighbours(db: Db, hostId: Id<"hst">): Promise<Id<"hst">[]> {
  const hosts = await BY_ID(db).all({ ids: JSON.stringify([hostId]) });
  return ((await neighboursOf(db, hosts)).get(hostId) ?? []).map((one) => one.id);
}

/** The other end of every way that each of these hosts is an end of, by id. */
async function neighboursOf(db: Db, hosts: readonly Host[]): Promise<Map<Id<"hst">, Host[]>> {
  const [near, pairs] = await Promise.all([nearOf(db, hosts), pairsOf(db, hosts)]);
  const far = new Set([...pairs.values()].flat());
  const known = new Map<Id<"hst">, Host>();
  if (far.size > 0) for (const one of await PAIRED(db).all({ ids: JSON.stringify([...far]) })) known.set(one.id, one);
  return new Map(
    hosts.map((host) => {
      const network = host.privateAddress === null ? undefined : near.get(host.privateNetwork ?? "");
      const all = (host.role === "forward" ? network?.all : network?.forwards) ?? [];
      const paired = (pairs.get(host.id) ?? []).flatMap((id) => known.get(id) ?? []);
      return [host.id, merged(all, paired).filter((one) => one.id !== host.id)];
    }),
  );
}

const byId = (a: Host, b: Host) => (a.id < b.id ? -1 : 1);

/** Both lists as one, by id. The first is in that order already and may be thousands long: it is not sorted for each host anew. */
function merged(sorted: readonly Host[], others: readonly Host[]): Host[] {
  const known = new Set(others.length === 0 ? [] : sorted.map((one) => one.id));
  const more = others.filter((one) => !known.has(one.id));
  return more.length === 0 ? [...sorted] : [...sorted, ...more].sort(byId);
}

/** Those of a private network that have an address there, by id. */
type Network = { all: Host[]; forwards: Host[] };

/** These hosts' private networks; of one that none of its forward hosts is among these, the forward hosts alone. */
async function nearOf(db: Db, hosts: readonly Host[]): Promise<Map<string, Network>> {
  const whole = new Set<string>();
  const forwards = new Set<string>();
  for (const { role, privateNetwork, privateAddress } of hosts)
    if (privateNetwork !== null && privateAddress !== null) (role === "forward" ? whole : forwards).add(privateNetwork);
  const rest = [...forwards].filter((network) => !whole.has(network));
  const found = await Promise.all([
    whole.size > 0 ? IN_NETWORKS(db).all({ networks: JSON.stringify([...whole]) }) : [],
    rest.length > 0 ? FORWARDS_IN_NETWORKS(db).all({ networks: JSON.stringify(rest) }) : [],
  ]);
  const networks = Map.groupBy(
    found.flat().filter((one) => one.privateAddress !== null),
    (one) => one.privateNetwork ?? "",
  );
  return new Map(
    [...networks].map(([name, members]) => {
      const all = members.sort(byId);
      return [name, { all, forwards: all.filter((one) => one.role === "forward") }];
    }),
  );
}

/** The hosts that each of these is paired with. An exit has no pairs. */
async function pairsOf(db: Db, hosts: readonly Host[]): Promise<Map<Id<"hst">, Id<"hst">[]>> {
  const ids = hosts.filter((host) => host.role !== "exit").map((host) => host.id);
  if (ids.length === 0) return new Map();
  const rows = await PAIRS(db).all({ ids: JSON.stringify(ids) });
  const ends = rows.flatMap(({ boarding, forward }) => [[boarding, forward] as const, [forward, boarding] as const]);
  return new Map([...Map.groupBy(ends, ([one]) => one)].map(([one, list]) => [one, list.map(([, other]) => other)]));
}
