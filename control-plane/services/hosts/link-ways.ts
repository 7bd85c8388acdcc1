import { and, asc, eq, isNull, ne, or, type SQL } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { StateItem } from "../../../shared/protocol/desired-state.ts";
import { isPrivateAddress } from "../../../shared/protocol/values.ts";
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

/** What a host should hold of this: where it passes others on, and who passes it on. */
export async function linkItems(db: Db, host: Host): Promise<StateItem[]> {
  const neighbours = await neighboursOf(db, host);
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

/** The hosts whose ways or pass-through depend on this one's row. */
export async function linkNeighbours(db: Db, hostId: Id<"hst">): Promise<Id<"hst">[]> {
  const [host] = await db.select(COLUMNS).from(t.hosts).where(eq(t.hosts.id, hostId));
  return host === undefined ? [] : (await neighboursOf(db, host)).map((one) => one.id);
}

/** The other end of every way that this host is an end of, by id. */
async function neighboursOf(db: Db, host: Host): Promise<Host[]> {
  const live = and(eq(t.hosts.approved, true), ne(t.hosts.state, "retired"), ne(t.hosts.id, host.id));
  const select = (where: SQL | undefined) =>
    db.select(COLUMNS).from(t.hosts).where(and(live, where)).orderBy(asc(t.hosts.id));
  const near =
    host.privateNetwork === null || host.privateAddress === null
      ? []
      : await select(
          and(
            eq(t.hosts.privateNetwork, host.privateNetwork),
            host.role === "forward" ? undefined : eq(t.hosts.role, "forward"),
          ),
        );
  const pairs = await db
    .select({ boarding: t.pairs.boardingHostId, forward: t.pairs.forwardHostId })
    .from(t.pairs)
    .where(and(isNull(t.pairs.retiredAt), or(eq(t.pairs.boardingHostId, host.id), eq(t.pairs.forwardHostId, host.id))));
  const paired = new Set(pairs.flatMap(({ boarding, forward }) => [boarding, forward]));
  const others: Host[] = [];
  for (const id of paired)
    if (id !== host.id && !near.some((one) => one.id === id)) others.push(...(await select(eq(t.hosts.id, id))));
  const all = [...near.filter((one) => one.privateAddress !== null), ...others];
  return all.sort((a, b) => (a.id < b.id ? -1 : 1));
}
