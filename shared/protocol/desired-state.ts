import { z } from "zod";
import { canonicalSha256, signedBytes } from "../canonical.ts";
import { idSchema } from "../ids.ts";
import {
  cidr4Schema,
  domainSchema,
  ifAddress4Schema,
  interfaceSchema,
  ipv4Schema,
  key32Schema,
  portSchema,
} from "./values.ts";

/**
 * Desired state: what a host's kernel should hold. A whole list each time, never a delta; what is not in it is removed.
 * Every item's `id` is unique within the state and stable while the thing it stands for lives.
 */
const itemId = z.string().min(1).max(64);

/** UDP arriving at `listen` goes to `to.address`, on the same port or on one given. One port, or a boarding host's whole range. */
export const relayItemSchema = z.object({
  type: z.literal("relay"),
  id: itemId,
  listen: z.object({ from: portSchema, to: portSchema }).refine((r) => r.from <= r.to, "from must not be above to"),
  to: z.object({ address: ipv4Schema, port: z.union([portSchema, z.literal("same")]) }),
  driver: z.enum(["nft", "socat"]),
});

export const wireguardPeerSchema = z.object({
  publicKey: key32Schema,
  allowedIps: z.array(ifAddress4Schema).min(1).max(16),
  /** Seconds, 0 is off. The client keeps the path open; the exit normally sends none. */
  keepalive: z.number().int().min(0).max(65_535),
  /** UTC ms after which the host removes the peer by itself, or null. */
  notAfter: z.number().int().nonnegative().nullable(),
});

/** A WireGuard interface of ours. Its private key is the host's and is in no state. */
export const wireguardItemSchema = z.object({
  type: z.literal("wireguard"),
  id: itemId,
  interface: interfaceSchema,
  listenPort: portSchema,
  address: ifAddress4Schema,
  mtu: z.number().int().min(576).max(9000),
  peers: z.array(wireguardPeerSchema).max(1024),
});

/**
 * What may leave the tunnel. `outInterface` null means the interface of the host's default route. Where there are
 * `domains`, all DNS from the tunnel goes to the exit's own resolver, which knows these names only. `resolvers` are
 * whom it asks; without them, those of the host's own resolv.conf.
 */
export const whitelistItemSchema = z.object({
  type: z.literal("whitelist"),
  id: itemId,
  interface: interfaceSchema,
  cidrs: z.array(cidr4Schema).max(20_000),
  domains: z.array(domainSchema).max(20_000),
  resolvers: z.array(ipv4Schema).min(1).max(8).optional(),
  outInterface: interfaceSchema.nullable(),
});

/** Where this host accepts captures of other agents: its private address, TCP. */
export const uplinkItemSchema = z.object({
  type: z.literal("uplink"),
  id: itemId,
  address: ipv4Schema,
  port: portSchema,
});

/**
 * TCP to this host that is passed on to the control plane it uses itself, from these sources only: the way in for hosts whose
 * direct one is blocked.
 */
export const linkProxyItemSchema = z.object({
  type: z.literal("linkProxy"),
  id: itemId,
  address: ipv4Schema,
  port: portSchema,
  allow: z.array(cidr4Schema).max(4096),
});

const linkWaySchema = z.object({ hostId: idSchema("hst"), address: ipv4Schema, port: portSchema });
/** Where this host finds such a way in, in the order to be tried after its direct ones. */
export const linkWaysItemSchema = z.object({
  type: z.literal("linkWays"),
  id: itemId,
  via: z.array(linkWaySchema).min(1).max(8),
});

export const stateItemSchema = z.discriminatedUnion("type", [
  relayItemSchema,
  wireguardItemSchema,
  whitelistItemSchema,
  uplinkItemSchema,
  linkProxyItemSchema,
  linkWaysItemSchema,
]);

export type RelayItem = z.infer<typeof relayItemSchema>;
export type WireguardPeer = z.infer<typeof wireguardPeerSchema>;
export type WireguardItem = z.infer<typeof wireguardItemSchema>;
export type WhitelistItem = z.infer<typeof whitelistItemSchema>;
export type UplinkItem = z.infer<typeof uplinkItemSchema>;
export type LinkProxyItem = z.infer<typeof linkProxyItemSchema>;
export type LinkWay = z.infer<typeof linkWaySchema>;
export type StateItem = z.infer<typeof stateItemSchema>;

/** An item as it came: perhaps of a kind that this release does not know, perhaps with more fields. The hash is over all of it. */
export const rawItemSchema = z.looseObject({ type: z.string().min(1).max(32), id: itemId });
export type RawItem = z.infer<typeof rawItemSchema>;

/** Items of a state, as far as this release understands them. */
export type ReadItems = {
  items: StateItem[];
  /** Of kinds it does not know. */
  unknown: { id: string; type: string }[];
};

/**
 * Reads items. Fields that are not known are left out, kinds that are not known are named; a known kind that fails its schema
 * makes the whole state unreadable, since to leave such an item out would take away what it stands for.
 */
export function readItems(raw: readonly RawItem[]): ReadItems | { bad: string } {
  const read: ReadItems = { items: [], unknown: [] };
  for (const item of raw) {
    const schema = stateItemSchema.options.find((option) => option.shape.type.value === item.type);
    if (schema === undefined) {
      read.unknown.push({ id: item.id, type: item.type });
      continue;
    }
    const result = schema.safeParse(item);
    if (!result.success) {
      const issue = result.error.issues[0];
      return { bad: `item ${item.id} (${item.type}): ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.trim() };
    }
    read.items.push(result.data);
  }
  return read;
}

/** A revision of one host's state. Revision 0 is a real one (nothing), not "none". */
export type StateRevision = { rev: number; sha256: string };

/** SHA-256 over the canonical items, in the order given. Both sides compute it the same way. */
export function stateSha256(items: readonly RawItem[]): Promise<string> {
  return canonicalSha256(items);
}

/** The bytes the control plane signs for a state: they name the host, so a state can't be replayed to another. */
export function stateSignedBytes(state: { hostId: string; rev: number; sha256: string }): Uint8Array<ArrayBuffer> {
  return signedBytes("trunkline.state.v1", { hostId: state.hostId, rev: state.rev, sha256: state.sha256 });
}
