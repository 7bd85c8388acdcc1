import type { RelayItem, StateItem } from "../../shared/protocol/desired-state.ts";
import type { Flow } from "./conntrack.ts";
import { itemsOf } from "./driver.ts";

/** One bit of the conntrack mark says "translated by our relay"; the others are left alone. */
export const RELAY_MARK = 0x0080_0000;
export const RELAY_TABLE = "trunkline_relay";
export const RELAY_MAP = "fwd4";

/** Where a port's packets go. */
export interface Target {
  address: string;
  port: number;
}

/** The relays a host should have: whole ranges by rule, single ports by map. */
export interface RelayWants {
  ranges: { item: string; from: number; to: number; address: string; port: number | "same" }[];
  singles: Map<number, Target & { item: string }>;
  refused: { item: string; error: string }[];
}

/**
 * The relay items of one driver that can be had. Two items that claim one port can't both be had, whoever would relay
 * them: the first of the state wins.
 */
export function relaysOf(items: readonly StateItem[], driver: RelayItem["driver"]) {
  const had: RelayItem[] = [];
  const refused: { item: string; error: string }[] = [];
  const singles = new Map<number, RelayItem>();
  const ranges: RelayItem[] = [];
  for (const item of itemsOf(items, "relay")) {
    const { from, to } = item.listen;
    const overlaps = (t: RelayItem) => from <= t.listen.to && t.listen.from <= to;
    // A thousand single ports must not be compared each with each.
    const single = from === to ? singles.get(from) : [...singles.values()].find(overlaps);
    const other = single ?? ranges.find(overlaps);
    if (!other && from === to) singles.set(from, item);
    else if (!other) ranges.push(item);
    if (item.driver !== driver) continue;
    if (other) refused.push({ item: item.id, error: `port_overlap: ${from}-${to} overlaps with ${other.id}` });
    else had.push(item);
  }
  return { had, refused };
}

/** What the nftables driver should hold. */
export function relayWants(items: readonly StateItem[]): RelayWants {
  const { had, refused } = relaysOf(items, "nft");
  const wants: RelayWants = { ranges: [], singles: new Map(), refused };
  for (const item of had) {
    const { from, to } = item.listen;
    const { address, port } = item.to;
    if (from === to) wants.singles.set(from, { item: item.id, address, port: port === "same" ? from : port });
    else wants.ranges.push({ item: item.id, from, to, address, port });
  }
  wants.ranges.sort((a, b) => a.from - b.from);
  return wants;
}

/** The target of a port, or undefined when it is not relayed. */
export function targetOf(wants: RelayWants, port: number): Target | undefined {
  const single = wants.singles.get(port);
  if (single) return single;
  const range = wants.ranges.find((r) => r.from <= port && port <= r.to);
  return range && { address: range.address, port: range.port === "same" ? port : range.port };
}

/**
 * The table's text, without the map's elements. One rule a range: a boarding host's two hundred ports cost one
 * comparison. The mark is set before the map is looked up, because a match ends the chain; the last rule takes it back
 * from what did not match.
 */
export function relayRuleset(wants: RelayWants, elements = ""): string {
  const mark = `ct mark set ct mark or ${RELAY_MARK}`;
  const ranges = wants.ranges.map(
    (r) => `    udp dport ${r.from}-${r.to} ${mark} dnat to ${r.address}${r.port === "same" ? "" : `:${r.port}`}\n`,
  );
  return `table ip ${RELAY_TABLE} {
  map ${RELAY_MAP} {
    type inet_service : ipv4_addr . inet_service
${elements}  }
  chain pre {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto != udp return
    fib daddr type != local return
${ranges.join("")}    ${mark} dnat ip to udp dport map @${RELAY_MAP}
    ct mark set ct mark and ${0xffff_ffff - RELAY_MARK}
  }
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    ct mark and ${RELAY_MARK} != 0 masquerade
  }
}
`;
}

export function elementText(port: number, target: Target): string {
  return `${port} : ${target.address} . ${target.port}`;
}

/** The map's elements out of nft's JSON: `[port, {concat: [address, port]}]` each. */
export function readMap(elements: readonly unknown[]): Map<number, Target> {
  const map = new Map<number, Target>();
  for (const element of elements) {
    const [key, value] = element as [unknown, { concat?: [string, number] }];
    // An element with a comment or a timeout, put there by hand, is an object: its key is wrapped.
    const port = typeof key === "number" ? key : Number((key as { elem?: { val?: unknown } })?.elem?.val);
    map.set(port, { address: String(value?.concat?.[0]), port: Number(value?.concat?.[1]) });
  }
  return map;
}

export const isOurs = (flow: Flow) => (flow.mark & RELAY_MARK) !== 0;

/**
 * True for a flow that the table as it is would not have made, if it was sent to this host: one that still goes to an
 * earlier target, or one that began before there was a mapping and that its keepalives would otherwise keep untranslated for
 * ever. The latter may also be a flow that only passes through, to another host's port of the same number.
 */
export function strays(wants: RelayWants, flow: Flow): boolean {
  const target = targetOf(wants, flow.port);
  if (!target) return isOurs(flow);
  return flow.from !== target.address || flow.fromPort !== target.port;
}
