import type { AddressInfo } from "node:net";
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeKeys, sha256OfCanonical, signer, verifier } from "../keys.ts";
import { TestControlPlane } from "../testing/control-plane.ts";
import { relayItem } from "../testing/session-bench.ts";
import { LinkSession } from "./session.ts";
import type { SessionAction } from "./session-types.ts";
import { frameText, LinkShell } from "./shell.ts";

const silent = { info() {}, warn() {}, error() {} };
let plane: TestControlPlane;
let url: string;
let shell: LinkShell;
let session: LinkSession;
let performed: SessionAction[];

/** A shell over real sockets, to these endpoints. */
function start(endpoints: string[], perform = (action: SessionAction) => void performed.push(action)): void {
  const keys = makeKeys("forward");
  plane.enrolled = { identityPublicKey: keys.identity.publicKey } as never;
  session = new LinkSession({
    hostId: plane.hostId,
    version: "0.1.0",
    bootId: "b",
    capabilities: [],
    endpoints,
    controlPlaneKeyId: plane.keyId,
    epoch: 0,
    accepted: null,
    applied: null,
    sign: signer(keys.identity),
    verify: verifier(plane.publicKey),
    sha256: sha256OfCanonical,
    random: () => 0.1,
  });
  const now = () => ({ mono: performance.now(), wall: Date.now() });
  shell = new LinkShell({ session, log: silent, now, perform });
  shell.start();
}

beforeEach(async () => {
  plane = new TestControlPlane();
  performed = [];
  url = await plane.listen();
});
afterEach(async () => {
  shell.stop();
  await plane.close();
});

const linked = () => expect.poll(() => session.phase, { timeout: 10_000 }).toBe("linked");

test("a real WebSocket carries the whole join, and a dropped one is made again", async () => {
  plane.want(4, [relayItem("r", 40_000)]);
  start([url]);
  await linked();
  expect(performed.find((a) => a.type === "accept")).toMatchObject({ state: { rev: 4 } });
  plane.drop();
  await expect.poll(() => plane.hellos, { timeout: 10_000 }).toBe(2);
  await linked();
  const epochs = plane.frames.flatMap((f) => (f.t === "hello" ? [f.epoch] : []));
  expect(epochs[1]).toBeGreaterThan(epochs[0] as number);
});

test("Retry-After of a refused upgrade is waited for", async () => {
  plane.refuseWith = { status: 503, retryAfter: "2" };
  start([url]);
  await expect.poll(() => session.phase).toBe("waiting");
  const asked = performance.now();
  plane.refuseWith = undefined;
  await linked();
  expect(performance.now() - asked).toBeGreaterThan(1800);
});

test("a black hole is noticed by its silence, and the other endpoint taken", async () => {
  [plane.heartbeatMs, plane.silenceMs] = [1000, 2000];
  const hole = await blackHole(url);
  start([hole.url, url]);
  await linked();
  expect(session.endpoint).toBe(hole.url);
  hole.swallow();
  await expect.poll(() => session.endpoint === url && session.phase === "linked", { timeout: 10_000 }).toBe(true);
  hole.close();
});

test("when the epoch can't be made durable it is not used", async () => {
  start([url], (action) => {
    if (action.type === "saveEpoch") throw new Error("disk full");
  });
  await expect.poll(() => session.counters.connects, { timeout: 10_000 }).toBeGreaterThan(2);
  expect(plane.hellos).toBe(0);
});

test("an ack that is too long keeps its failures", () => {
  const results = Array.from({ length: 9000 }, (_, i) => ({ item: `item-${i}`.padEnd(40, "x"), ok: i % 1000 !== 7 }));
  const text = frameText({ t: "ack", rev: 1, sha256: "0".repeat(64), results }) ?? "";
  expect(Buffer.byteLength(text)).toBeLessThanOrEqual(256 * 1024);
  expect((JSON.parse(text) as { results: typeof results }).results.filter((r) => !r.ok)).toHaveLength(9);
});

/** A TCP proxy that can stop passing anything on without closing anything. */
async function blackHole(target: string) {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let swallowing = false;
  const server: Server = createServer((near) => {
    const far = connect(Number(port), hostname);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      from.on("error", () => {});
      from.on("data", (chunk) => {
        if (!swallowing) to.write(chunk);
      });
      from.on("close", () => {
        if (!swallowing) to.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    swallow: () => {
      swallowing = true;
    },
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
