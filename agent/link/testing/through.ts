import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { createServer as createTlsServer, getCACertificates, setDefaultCACertificates, type TLSSocket } from "node:tls";
import type { LinkWay } from "../../../shared/protocol/desired-state.ts";
import { OTHER_HOST } from "../../testing/session-bench.ts";
import { createLinkProxy } from "../proxy.ts";

/** Good for a hundred years, for the name control.example alone; nobody trusts it but these tests. */
const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBpzCCAU2gAwIBAgIUNFrbM0+SD/H64k5P4Pw7zJ0v/i8wCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPY29udHJvbC5leGFtcGxlMCAXDTI2MTEyMjA3MTMzNVoYDzIx
MjYxMDI5MDcxMzM1WjAaMRgwFgYDVQQDDA9jb250cm9sLmV4YW1wbGUwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAR2W1c8BOeWEHMCRcmQE1N11hqlUVzz/RdC6ajQ
0qkuV+jaCaoNlQpqE945Zfniyke48103kV1npPQhmd24ga4Eo28wbTAdBgNVHQ4E
FgQU+MpJKUkldsZcLWzSRy92OPFLgC4wHwYDVR0jBBgwFoAU+MpJKUkldsZcLWzS
Ry92OPFLgC4wDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgg9jb250cm9sLmV4
YW1wbGUwCgYIKoZIzj0EAwIDSAAwRQIhANPWoqf4PM/5UXI5+6jymHkBaFMZ7mWU
bfyl/VUcUzH2AiBFJtzHyMldhFplUZaahSTrR08jZPTAlTtlw/xAhRuQEw==
-----END CERTIFICATE-----`;
const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgGThtdolp+/O22Cfy
MJuujchIFM4PvWzfyIa3m/jHu6ShRANCAAR2W1c8BOeWEHMCRcmQE1N11hqlUVzz
/RdC6ajQ0qkuV+jaCaoNlQpqE945Zfniyke48103kV1npPQhmd24ga4E
-----END PRIVATE KEY-----`;

/** A control plane behind TLS as control.example, which is reached through a pass-through and in no other way. */
export interface Through {
  way: LinkWay;
  /** As whom its clients asked for it, one entry a connection. */
  names: string[];
  close(): Promise<void>;
}

/** @param target base URL (http) of what is to be reached */
export async function startThrough(target: string): Promise<Through> {
  const { hostname, port: inside } = new URL(target);
  const names: string[] = [];
  const front = createTlsServer({ cert: CERTIFICATE, key: KEY }, (socket: TLSSocket) => {
    names.push(String(socket.servername));
    const inner = connect(Number(inside), hostname);
    for (const one of [socket, inner]) one.on("error", () => {});
    socket.pipe(inner).pipe(socket);
  }).listen(0, "127.0.0.1");
  front.on("tlsClientError", () => {});
  await once(front, "listening");
  const proxy = createLinkProxy(`https://127.0.0.1:${(front.address() as AddressInfo).port}`);
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, "close");
  await proxy.configure([{ type: "linkProxy", id: "link-proxy", address: "127.0.0.1", port, allow: ["127.0.0.1/32"] }]);
  const trusted = getCACertificates("default");
  setDefaultCACertificates([...trusted, CERTIFICATE]);
  return {
    way: { hostId: OTHER_HOST, address: "127.0.0.1", port },
    names,
    async close() {
      setDefaultCACertificates(trusted);
      await proxy.close();
      front.close();
    },
  };
}
