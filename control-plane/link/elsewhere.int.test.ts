import { generateKeyPairSync, sign } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { eq } from "drizzle-orm";
import { expect, test } from "vitest";
import type { Id } from "../../shared/ids.ts";
import { type HelloFrame, helloSignedBytes } from "../../shared/protocol/frames.ts";
import * as t from "../db/schema/index.ts";
import type { BusMessage } from "../ports/index.ts";
import { makeHarness } from "../testing/harness.ts";
import { enrolHosts, stockCatalogue } from "../testing/world.ts";
import { AppliedWaiters, type Delay } from "./applied-waiters.ts";
import { LinkHub } from "./hub.ts";

const delay: Delay = (ms, fn) => {
  const timer = setTimeout(fn, ms);
  return () => clearTimeout(timer);
};

test("a host that joins another process while its hello is stored here has one session: what is stored here is let in no more", async () => {
  let hear: (message: BusMessage) => void = () => {};
  const told: BusMessage[] = [];
  const bus = {
    publish: (message: BusMessage) => void told.push(message),
    subscribe: (handler: (message: BusMessage) => void) => {
      hear = handler;
    },
    close: async () => {},
  };
  let hub: LinkHub | undefined;
  const h = await makeHarness({
    fleet: (db) => {
      const clock = { monotonic: () => performance.now(), wall: () => h.clock.now() };
      hub = new LinkHub(clock, new AppliedWaiters(db, delay), bus, delay);
      return hub;
    },
  });
  hub?.start(h.ports);
  await stockCatalogue(h);
  const [hostId] = (await enrolHosts(h, "exit", 1)) as [Id<"hst">];
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const identity = Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ identityPublicKey: identity }).where(eq(t.hosts.id, hostId)));

  const join = async (epoch: number) => {
    const frames: { t: string; nonce?: string }[] = [];
    let closed: string | undefined;
    const handle = hub?.accept({
      send: (text) => void frames.push(JSON.parse(text)),
      close: (_code, reason) => {
        closed = reason;
      },
    });
    const bytes = helloSignedBytes({ nonce: frames[0]?.nonce ?? "", hostId, epoch });
    const signature = sign(null, bytes, privateKey).toString("base64");
    const hello: HelloFrame = {
      ...{ t: "hello", hostId, epoch, signature, version: "1", bootId: "b" },
      ...{ capabilities: [], applied: null },
    };
    handle?.message(JSON.stringify(hello));
    while (closed === undefined && !frames.some((frame) => frame.t === "welcome")) await sleep(1);
    return { welcomed: frames.some((frame) => frame.t === "welcome"), closed };
  };

  const { write } = h.ports.db;
  h.ports.db.write = async (fn) => {
    const stored = await write.call(h.ports.db, fn);
    // Committed here, and the answer is on its way: the other process was faster to say so.
    hear({ t: "joined", hostId, epoch: 6 });
    return stored as Awaited<ReturnType<typeof fn>>;
  };
  expect(await join(5)).toEqual({ welcomed: false, closed: "superseded" });
  expect(hub?.size).toBe(0);
  expect(told.filter((message) => message.t === "joined")).toEqual([]);

  // What was heard then counts for no later session.
  h.ports.db.write = write;
  expect(await join(7)).toEqual({ welcomed: true, closed: undefined });
  expect(hub?.size).toBe(1);
});
