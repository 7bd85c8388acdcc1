import type { StateItem, WireguardItem, WireguardPeer } from "../../shared/protocol/desired-state.ts";
import { itemsOf, ORDER, type Plan, type Step } from "./driver.ts";
import type { Link } from "./links.ts";
import { networkOf, type SeenPeer, type SeenWireguard } from "./wireguard-dump.ts";

export interface WireguardSeen {
  /** All links of this namespace, by name. */
  links: ReadonlyMap<string, Link>;
  /** What `wg` says of those that are ours and there. Null: there is a link, but nobody answers for it. */
  tunnels: ReadonlyMap<string, SeenWireguard | null>;
  /** Names recorded as made by us. */
  ours: readonly string[];
  /** Our WireGuard public key, or null where this host has none. */
  publicKey: string | null;
}

export type WireguardStep = Step & { interface: string } & (
    | { kind: "create"; item: WireguardItem; peerArgs: string[] }
    | { kind: "set"; args: string[] }
    | { kind: "link"; item: WireguardItem; oldAddresses: string[] }
    | { kind: "remove" }
  );

/** Peers whose time has not run out. */
export function livePeers(item: WireguardItem, now: number): WireguardPeer[] {
  return item.peers.filter((peer) => peer.notAfter === null || peer.notAfter > now);
}

/** The earliest `notAfter` still ahead, or undefined. */
export function nextExpiry(items: readonly StateItem[], now: number): number | undefined {
  let next: number | undefined;
  for (const item of itemsOf(items, "wireguard"))
    for (const { notAfter } of item.peers)
      if (notAfter !== null && notAfter > now && (next === undefined || notAfter < next)) next = notAfter;
  return next;
}

/** What differs between the tunnels there are and those there should be. */
export function planWireguard(seen: WireguardSeen, items: readonly StateItem[], now: number): Plan<WireguardStep> {
  const steps: WireguardStep[] = [];
  const refused: { item: string; error: string }[] = [];
  const wanted = new Set<string>();
  for (const item of itemsOf(items, "wireguard")) {
    const why = refusal(item, seen, wanted);
    wanted.add(item.interface);
    if (why) refused.push({ item: item.id, error: why });
    else steps.push(...planTunnel(seen, item, now));
  }
  for (const name of seen.ours)
    if (!wanted.has(name) && seen.links.has(name))
      steps.push({
        kind: "remove",
        interface: name,
        items: [],
        what: `tunnel ${name} is in no item`,
        cause: "differs",
        order: ORDER.tunnel - 1,
      });
  return { steps, refused };
}

function refusal(item: WireguardItem, seen: WireguardSeen, taken: ReadonlySet<string>): string | undefined {
  const name = item.interface;
  if (!name.startsWith("tl")) return `bad_interface: ${name} does not start with "tl", so it may not be ours`;
  if (taken.has(name)) return `bad_interface: two items ask for ${name}`;
  if (seen.publicKey === null) return "no_key: this host has no WireGuard key; only exits make one when they enrol";
  if (seen.links.has(name) && !seen.ours.includes(name))
    return `interface_taken: ${name} exists and was not made by this agent`;
  const networks = new Set<string>();
  for (const network of item.peers.flatMap((peer) => peer.allowedIps.map(networkOf))) {
    if (networks.has(network)) return `duplicate_address: two peers of ${name} claim ${network}`;
    networks.add(network);
  }
  return undefined;
}

function planTunnel(seen: WireguardSeen, item: WireguardItem, now: number): WireguardStep[] {
  const base = { interface: item.interface, items: [item.id], cause: "differs" as const, order: ORDER.tunnel };
  const link = seen.links.get(item.interface);
  const tunnel = seen.tunnels.get(item.interface);
  if (!link || !tunnel) {
    const what = link ? `nobody answers for tunnel ${item.interface}` : `tunnel ${item.interface} is missing`;
    return [{ ...base, kind: "create", what, item, peerArgs: peerChanges([], item, now).args }];
  }
  const steps: WireguardStep[] = [];
  const own: string[] = [];
  if (tunnel.listenPort !== item.listenPort) own.push("listen-port", String(item.listenPort));
  if (tunnel.publicKey !== seen.publicKey) own.push("private-key");
  const peers = peerChanges(tunnel.peers, item, now);
  if (own.length + peers.args.length > 0) {
    const cause = own.length === 0 && peers.onlyExpired ? "expired" : "differs";
    const what = [...(own.length > 0 ? [`${own[0]} of ${item.interface}`] : []), ...peers.what]
      .join(", ")
      .slice(0, 400);
    steps.push({ ...base, kind: "set", what, cause, args: [...own, ...peers.args] });
  }
  const rightAddress = link.addresses.length === 1 && link.addresses[0] === item.address;
  if (!rightAddress || link.mtu !== item.mtu || !link.up) {
    const what = `address, MTU or state of ${item.interface}`;
    steps.push({ ...base, kind: "link", what, item, oldAddresses: link.addresses.filter((a) => a !== item.address) });
  }
  return steps;
}

/** Arguments of one `wg set`, removals first: a new peer may take over the address of an old one. */
function peerChanges(seen: readonly SeenPeer[], item: WireguardItem, now: number) {
  const live = new Map(livePeers(item, now).map((peer) => [peer.publicKey, peer]));
  const named = new Set(item.peers.map((peer) => peer.publicKey));
  const args: string[] = [];
  const what: string[] = [];
  let onlyExpired = true;
  for (const { publicKey } of seen) {
    if (live.has(publicKey)) continue;
    args.push("peer", publicKey, "remove");
    what.push(named.has(publicKey) ? `peer ${publicKey} is past its time` : `peer ${publicKey} is in no item`);
    onlyExpired &&= named.has(publicKey);
  }
  const held = new Map(seen.map((peer) => [peer.publicKey, peer]));
  for (const peer of live.values()) {
    const allowed = peer.allowedIps.map(networkOf).sort();
    const has = held.get(peer.publicKey);
    const same = has && has.keepalive === peer.keepalive && has.allowedIps.join() === allowed.join();
    if (same && !has.hasPresharedKey) continue;
    onlyExpired = false;
    what.push(has ? `peer ${peer.publicKey} differs` : `peer ${peer.publicKey} is missing`);
    args.push("peer", peer.publicKey);
    // Said always, because what is not said stays as someone left it. /dev/null is an empty, that is no, key.
    if (has?.hasPresharedKey) args.push("preshared-key", "/dev/null");
    args.push("persistent-keepalive", String(peer.keepalive), "allowed-ips", allowed.join(","));
  }
  return { args, what, onlyExpired };
}
