import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { createServer as createTlsServer, getCACertificates, setDefaultCACertificates, type TLSSocket } from "node:tls";
import { beforeEach, expect, test } from "vitest";
import { makeKeys, sha256OfCanonical, signer, verifier } from "../keys.ts";
import { TestControlPlane } from "../testing/control-plane.ts";
import { OTHER_HOST, relayItem } from "../testing/session-bench.ts";
import { createLinkProxy, type LinkProxy } from "./proxy.ts";
import { LinkSession } from "./session.ts";
import type { SessionAction } from "./session-types.ts";
import { LinkShell } from "./shell.ts";

/** A link over TLS through another host's pass-through: the name and the certificate stay the control plane's. */

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

const silent = { info() {}, warn() {}, error() {} };
let plane: TestControlPlane;
let proxy: LinkProxy;
let names: string[];
let notes: string[];
let ends: (() => unknown)[];

beforeEach(async () => {
  names = [];
  notes = [];
  ends = [];
  plane = new TestControlPlane();
  const target = new URL(await plane.listen());
  ends.push(() => plane.close());
  const front = createTlsServer({ cert: CERTIFICATE, key: KEY }, (socket: TLSSocket) => {
    names.push(String(socket.servername));
    const inner = connect(Number(target.port), target.hostname);
    for (const one of [socket, inner]) one.on("error", () => {});
    socket.pipe(inner).pipe(socket);
  }).listen(0, "127.0.0.1");
  front.on("tlsClientError", () => {});
  await once(front, "listening");
  ends.push(() => front.close());
  proxy = createLinkProxy(`https://127.0.0.1:${(front.address() as AddressInfo).port}`);
  ends.push(() => proxy.close());
  const trusted = getCACertificates("default");
  setDefaultCACertificates([...trusted, CERTIFICATE]);
  ends.push(() => setDefaultCACertificates(trusted));
  return async () => {
    for (const end of ends.reverse()) await end();
  };
});

/** A shell whose direct way to that URL leads nowhere, and that knows the pass-through. */
async function start(url: string): Promise<LinkSession> {
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, "close");
  const item = { type: "linkProxy" as const, id: "link-proxy", address: "127.0.0.1", port, allow: ["127.0.0.1/32"] };
  await proxy.configure([item]);
  const keys = makeKeys("forward");
  plane.enrolled = { identityPublicKey: keys.identity.publicKey } as never;
  const session = new LinkSession({
    ...{ hostId: plane.hostId, version: "0.1.0", bootId: "b", capabilities: [], endpoints: [url], epoch: 0 },
    ...{ ways: [{ hostId: OTHER_HOST, address: "127.0.0.1", port }], accepted: null, applied: null },
    controlPlaneKeyId: plane.keyId,
    sign: signer(keys.identity),
    verify: verifier(plane.publicKey),
    sha256: sha256OfCanonical,
    random: () => 0.01,
  });
  const now = () => ({ mono: performance.now(), wall: Date.now() });
  const perform = (_: SessionAction) => {};
  const log = {
    ...silent,
    info: (message: string, facts?: object) => void notes.push(`${message} ${JSON.stringify(facts)}`),
  };
  const shell = new LinkShell({ session, log, now, perform });
  ends.push(() => shell.stop());
  // Nothing listens there: the direct way is refused at once.
  shell.start();
  return session;
}

test("a link through a pass-through speaks TLS with the control plane itself, by its own name", async () => {
  plane.want(4, [relayItem("r", 40_000)]);
  const session = await start("https://control.example:1");
  await expect.poll(() => session.phase, { timeout: 10_000 }).toBe("linked");
  expect(session.via).toMatchObject({ hostId: OTHER_HOST });
  expect(new Set(names)).toEqual(new Set(["control.example"]));
});

test("a certificate of another name is refused, although it is of one that is trusted", async () => {
  plane.want(4, []);
  const session = await start("https://elsewhere.example:1");
  await expect.poll(() => notes.join(), { timeout: 10_000 }).toContain("elsewhere.example. is not in the cert");
  expect(session.phase).not.toBe("linked");
  expect(plane.hellos).toBe(0);
});
