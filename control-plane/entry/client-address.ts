import { getConnInfo } from "@hono/node-server/conninfo";
import type { Context as HonoContext } from "hono";

/**
 * The address a request came from. X-Forwarded-For is believed only from configured proxies, and only its last entry that is
 * not one of them: what stands before that, anyone could have written.
 */
export function clientAddress(trustedProxies: readonly string[]): (c: HonoContext) => string {
  const trusted = new Set(trustedProxies);
  return (c) => {
    const peer = plain(getConnInfo(c).remote.address ?? "unknown");
    if (!trusted.has(peer)) return peer;
    const hops = (c.req.header("x-forwarded-for") ?? "").split(",").map((hop) => plain(hop.trim()));
    return hops.reverse().find((hop) => hop !== "" && !trusted.has(hop)) ?? peer;
  };
}

/** An IPv4 address that arrived on an IPv6 socket, as IPv4. */
function plain(address: string): string {
  return address.startsWith("::ffff:") ? address.slice(7) : address;
}
