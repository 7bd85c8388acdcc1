import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { type Range, rangesOf, rangeText } from "./cidr.ts";
import { itemsOf } from "./driver.ts";

export const EXIT_TABLE = "trunkline_exit";

/** Never reachable from a tunnel, whatever a list says: networks of the host and its neighbours, and no unicast. */
const NEVER = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "224.0.0.0-255.255.255.255",
];

/** Bytes of IPv4 and TCP headers between an MTU and its MSS. */
const HEADERS = 40;
const DEFAULT_MTU = 1392;

/** What guards one tunnel. */
export interface Guard {
  /** The item, or null: a tunnel without a whitelist item, from which nothing may leave. */
  item: string | null;
  tunnel: string;
  /** Null: not known (yet), and then nothing may leave either. */
  outInterface: string | null;
  mss: number;
  ranges: Range[];
  /** Names open it too: its DNS goes to the resolver of ours, which fills the set of their addresses. */
  names: boolean;
}

/** Where the resolver of a tunnel listens, on the tunnel's address. */
export const RESOLVER_PORT = 10_053;
/** Seconds an address stays after it was answered, or after the last packet to it. */
export const ADDRESS_TTL = 7200;
export const namesSet = (tunnel: string) => `dom4_${tunnel}`;

/** The guards of a state, by the name of the tunnel. */
export function guardsOf(items: readonly StateItem[], defaultInterface: string | undefined) {
  const refused: { item: string; error: string }[] = [];
  const guards = new Map<string, Guard>();
  const tunnels = itemsOf(items, "wireguard");
  const mssOf = (name: string) => (tunnels.find((t) => t.interface === name)?.mtu ?? DEFAULT_MTU) - HEADERS;
  for (const { id, interface: tunnel, outInterface, cidrs, domains } of itemsOf(items, "whitelist")) {
    if (guards.has(tunnel)) {
      refused.push({ item: id, error: `bad_interface: two whitelists for ${tunnel}` });
      continue;
    }
    const out = outInterface ?? defaultInterface ?? null;
    if (out === null)
      refused.push({ item: id, error: "no_default_route: the host has none, so nothing can leave the tunnel yet" });
    const names = domains.length > 0;
    guards.set(tunnel, { item: id, tunnel, outInterface: out, mss: mssOf(tunnel), ranges: rangesOf(cidrs), names });
  }
  for (const { interface: tunnel } of tunnels)
    if (!guards.has(tunnel))
      guards.set(tunnel, { item: null, tunnel, outInterface: null, mss: mssOf(tunnel), ranges: [], names: false });
  return { guards: [...guards.values()].sort((a, b) => (a.tunnel < b.tunnel ? -1 : 1)), refused };
}

export const setName = (tunnel: string) => `wl4_${tunnel}`;
export const deniedName = (tunnel: string) => `denied_${tunnel}`;

/** Commands that give a set exactly these ranges. */
export function fillSet(tunnel: string, ranges: readonly Range[]): string {
  if (ranges.length === 0) return "";
  return `add element ip ${EXIT_TABLE} ${setName(tunnel)} { ${ranges.map(rangeText).join(", ")} }\n`;
}

/**
 * The table's text, without the whitelists' elements. There is no rule that lets established traffic out of a tunnel,
 * and none that lets it in from an address that is not listed: a removed entry ends running flows in both directions
 * at once. An address of a listed name stays as long as packets go to it: a film must not end because its name was
 * looked up two hours ago. Errors about listed flows (ICMP related: too big, unreachable) come from routers that no list knows.
 */
export function exitRuleset(guards: readonly Guard[]): string {
  const out = (g: Guard) => (g.outInterface === null ? null : `"${g.outInterface}"`);
  const each = (lines: (g: Guard) => string) => guards.map(lines).join("");
  return `table ip ${EXIT_TABLE} {
  set never4 { type ipv4_addr; flags interval; elements = { ${NEVER.join(", ")} }
  }
${each(
  (g) =>
    `  counter ${deniedName(g.tunnel)} { }\n  set ${setName(g.tunnel)} { type ipv4_addr; flags interval; }\n${
      g.names
        ? `  set ${namesSet(g.tunnel)} { type ipv4_addr; flags timeout, dynamic; timeout ${ADDRESS_TTL}s; }\n`
        : ""
    }`,
)}
${each(
  (g) => `  chain deny_${g.tunnel} {
    counter name ${deniedName(g.tunnel)}
    limit rate 1/second burst 5 packets log prefix "trunkline denied ${g.tunnel} "
    reject with icmp type admin-prohibited
  }
  chain out_${g.tunnel} {
    ip daddr @never4 goto deny_${g.tunnel}
${out(g) ? `    oifname ${out(g)} ip daddr @${setName(g.tunnel)} accept\n` : ""}${
  out(g) && g.names
    ? `    oifname ${out(g)} ip daddr @${namesSet(g.tunnel)} update @${namesSet(g.tunnel)} { ip daddr } accept\n`
    : ""
}    goto deny_${g.tunnel}
  }
  chain in_${g.tunnel} {
${
  out(g)
    ? `    iifname ${out(g)} ct state established ip saddr @${setName(g.tunnel)} accept
${g.names ? `    iifname ${out(g)} ct state established ip saddr @${namesSet(g.tunnel)} accept\n` : ""}    iifname ${out(g)} ct state related meta l4proto icmp accept\n`
    : ""
}    drop
  }
`,
)}
  chain forward {
    type filter hook forward priority filter; policy drop;
${each((g) => `    iifname "${g.tunnel}" goto out_${g.tunnel}\n`)}${each((g) => `    oifname "${g.tunnel}" goto in_${g.tunnel}\n`)}  }
  chain input {
    type filter hook input priority filter; policy accept;
${each((g) => `    iifname "${g.tunnel}" meta l4proto icmp accept\n${g.names ? `    iifname "${g.tunnel}" meta l4proto { tcp, udp } th dport ${RESOLVER_PORT} accept\n` : ""}    iifname "${g.tunnel}" goto deny_${g.tunnel}\n`)}  }
  chain dns {
    type nat hook prerouting priority dstnat; policy accept;
${each((g) => (g.names ? `    iifname "${g.tunnel}" meta l4proto { tcp, udp } th dport 53 redirect to :${RESOLVER_PORT}\n` : ""))}  }
  chain mss {
    type filter hook forward priority mangle; policy accept;
${each((g) => ["iifname", "oifname"].map((d) => `    ${d} "${g.tunnel}" tcp flags syn tcp option maxseg size set ${g.mss}\n`).join(""))}  }
  chain nat {
    type nat hook postrouting priority srcnat; policy accept;
${each((g) => (out(g) ? `    iifname "${g.tunnel}" oifname ${out(g)} masquerade\n` : ""))}  }
}
`;
}
