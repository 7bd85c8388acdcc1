import { z } from "zod";

/** Typed values that may reach an argv: each parser accepts one exact form, so nothing user-made can be read as an option or a command. */

const OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const IPV4 = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}$`);

/** Dotted-quad IPv4 address, no leading zeros. */
export const ipv4Schema = z
  .string()
  .max(15)
  .regex(IPV4, "must be an IPv4 address")
  .meta({ examples: ["203.0.113.7"] });

/** IPv4 network in CIDR form; a bare address is not accepted. Host bits must be zero. */
export const cidr4Schema = z
  .string()
  .max(18)
  .refine((s) => parseCidr4(s) !== undefined, {
    message: "must be an IPv4 network such as 203.0.113.0/24, host bits zero",
  })
  .meta({ examples: ["203.0.113.0/24"] });

/** IPv4 address with prefix length, host bits allowed (an interface's address). */
export const ifAddress4Schema = z
  .string()
  .max(18)
  .refine((s) => {
    const [address, length, more] = s.split("/");
    return more === undefined && IPV4.test(address ?? "") && /^(?:[0-9]|[12][0-9]|3[0-2])$/.test(length ?? "");
  }, "must be an IPv4 address with a prefix length");

export const portSchema = z.number().int().min(1).max(65_535);

/** A Linux interface name of the safe kind: letters, digits, dot, dash, underscore; starts with a letter; at most 15. */
export const interfaceSchema = z.string().regex(/^[A-Za-z][A-Za-z0-9._-]{0,14}$/, "must be an interface name");

/** 32 bytes in base 64: a WireGuard or X25519 or Ed25519 public key. The last sextet's two spare bits are zero. */
export const key32Schema = z
  .string()
  .regex(/^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/, "must be 32 bytes in base 64")
  .meta({ examples: ["l2bFqBBtFSTqQfkPVLqsRkuF7NBSOkzUtvc9nmYOZ3w="] });

/** 64 bytes in base 64: an Ed25519 signature. */
export const signatureSchema = z.string().regex(/^[A-Za-z0-9+/]{85}[AQgw]==$/, "must be 64 bytes in base 64");

export const sha256Schema = z.string().regex(/^[0-9a-f]{64}$/, "must be a SHA-256 in lower-case hex");

const DOMAIN =
  /^(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?![0-9]+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])$/;

/**
 * A name of a whitelist. `example.com` is that name alone; `*.example.com` is every name below it, at any depth, and
 * not itself. Lower case ASCII without a dot at the end, names of other scripts in their `xn--` form: see
 * {@link normaliseDomain} for what people type.
 */
export const domainSchema = z
  .string()
  .max(253)
  .regex(DOMAIN, "must be a host name such as example.com, or *.example.com for all names below it")
  .meta({ examples: ["example.com", "*.example.com"] });

/** What people type as a {@link domainSchema}: case, a dot at the end and other scripts are taken care of. Undefined when it is no name. */
export function normaliseDomain(text: string): string | undefined {
  const [, star = "", rest = ""] = /^(\*\.)?(.*?)\.?$/.exec(text.trim()) ?? [];
  // Anything a URL gives a meaning of its own would be cut off or decoded, not refused.
  if (rest === "" || /[\s/?#@:%\\[\]]/.test(rest)) return undefined;
  try {
    const name = star + new URL(`http://${rest}/`).hostname;
    return domainSchema.safeParse(name).success ? name : undefined;
  } catch {
    return undefined;
  }
}

/** True when a name (lower case, no dot at the end) is among the listed ones. */
export function isListedDomain(listed: ReadonlySet<string>, name: string): boolean {
  if (listed.has(name)) return true;
  for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1))
    if (listed.has(`*${name.slice(dot)}`)) return true;
  return false;
}

/** The two ends of an IPv4 network as unsigned numbers, or undefined when the text is not one. */
export function parseCidr4(text: string): { first: number; last: number } | undefined {
  const [address, length, more] = text.split("/");
  if (more !== undefined || !IPV4.test(address ?? "") || !/^(?:[0-9]|[12][0-9]|3[0-2])$/.test(length ?? ""))
    return undefined;
  const first = ipv4ToNumber(address as string);
  const size = 2 ** (32 - Number(length));
  return first % size === 0 ? { first, last: first + size - 1 } : undefined;
}

/** RFC 1918, and the shared space of RFC 6598 that some clouds use between regions. */
const PRIVATE_NETWORKS = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"].map(parseCidr4);

/** True for an IPv4 address that no internet routes. */
export function isPrivateAddress(address: string): boolean {
  const n = ipv4ToNumber(address);
  return PRIVATE_NETWORKS.some((net) => net !== undefined && n >= net.first && n <= net.last);
}

export function ipv4ToNumber(address: string): number {
  return address.split(".").reduce((n, octet) => n * 256 + Number(octet), 0);
}

export function numberToIpv4(n: number): string {
  return [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255].join(".");
}
