import { isIP, type NetConnectOpts, connect as netConnect, type Socket } from "node:net";
import { checkServerIdentity, connect as tlsConnect } from "node:tls";
import type { Endpoint } from "./endpoints.ts";

/**
 * Opens the connection of an http, https, ws or wss URL, to its own host or through another one. TLS goes end to end: the name
 * and the certificate are the URL's, whoever passes it on. The socket tells of failures itself.
 */
export function dial({ url, via }: Endpoint): Socket {
  const { hostname, port, protocol } = new URL(url);
  const secure = protocol === "wss:" || protocol === "https:";
  const host = hostname.replace(/^\[|\]$/g, "");
  const to: NetConnectOpts = {
    ...(via === undefined
      ? { host, port: Number(port || (secure ? 443 : 80)) }
      : { host: via.address, port: via.port }),
    noDelay: true,
  };
  if (!secure) return netConnect(to);
  return tlsConnect({
    ...to,
    servername: isIP(host) === 0 ? host : "",
    checkServerIdentity: (_, certificate) => checkServerIdentity(host, certificate),
  });
}
