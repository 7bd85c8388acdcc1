import { beforeEach, expect, test } from "vitest";
import { makeKeys, sha256OfCanonical, signer, verifier } from "../keys.ts";
import { TestControlPlane } from "../testing/control-plane.ts";
import { OTHER_HOST, relayItem } from "../testing/session-bench.ts";
import { LinkSession } from "./session.ts";
import type { SessionAction } from "./session-types.ts";
import { LinkShell } from "./shell.ts";
import { startThrough, type Through } from "./testing/through.ts";

/** A link over TLS through another host's pass-through: the name and the certificate stay the control plane's. */

const silent = { info() {}, warn() {}, error() {} };
let plane: TestControlPlane;
let through: Through;
let notes: string[];
let ends: (() => unknown)[];

beforeEach(async () => {
  notes = [];
  ends = [];
  plane = new TestControlPlane();
  const target = await plane.listen();
  ends.push(() => plane.close());
  through = await startThrough(target);
  ends.push(() => through.close());
  return async () => {
    for (const end of ends.reverse()) await end();
  };
});

/** A shell whose direct way to that URL leads nowhere, and that knows the pass-through. */
async function start(url: string): Promise<LinkSession> {
  const keys = makeKeys("forward");
  plane.enrolled = { identityPublicKey: keys.identity.publicKey } as never;
  const session = new LinkSession({
    ...{ hostId: plane.hostId, version: "0.1.0", bootId: "b", capabilities: [], endpoints: [url], epoch: 0 },
    ...{ ways: [through.way], accepted: null, applied: null },
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
  expect(new Set(through.names)).toEqual(new Set(["control.example"]));
});

test("a certificate of another name is refused, although it is of one that is trusted", async () => {
  plane.want(4, []);
  const session = await start("https://elsewhere.example:1");
  await expect.poll(() => notes.join(), { timeout: 10_000 }).toContain("elsewhere.example. is not in the cert");
  expect(session.phase).not.toBe("linked");
  expect(plane.hellos).toBe(0);
});
