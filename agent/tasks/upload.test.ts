import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { promisify } from "node:util";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createFakeStore, type FakeStore, type Fault } from "./testing/fake-store.ts";
import { Upload } from "./upload.ts";

let store: FakeStore;
let endpoint: string;
beforeEach(async () => {
  store = createFakeStore();
  store.server.listen(0, "127.0.0.1");
  await once(store.server, "listening");
  endpoint = `http://127.0.0.1:${(store.server.address() as AddressInfo).port}`;
});
afterEach(() => store.close());

const start = (path = "/up/1", signal: AbortSignal = AbortSignal.timeout(20_000)) =>
  new Upload({ way: () => ({ url: endpoint }), path, token: "secret", signal });
const noise = (length: number, seed = 1) => Buffer.from(Array.from({ length }, (_, i) => (i * 31 + seed) & 255));

test("what is stored is what was written, whatever goes wrong on the way", async () => {
  const bytes = noise(900_000);
  const upload = start();
  store.faults = ["500", "cut-half", "409", "cut-after", "cut-half", "500"];
  for (let at = 0; at < bytes.length; at += 30_000) await upload.write(bytes.subarray(at, at + 30_000));
  expect(await upload.finish()).toBe(bytes.length);
  expect(store.stored("/up/1").equals(bytes)).toBe(true);
  expect(store.puts.every((put) => put.authorization === "Bearer secret")).toBe(true);
  expect(store.faults).toEqual([]);
});

test("any order of faults and any sizes give identical bytes", async () => {
  const faults = fc.array(fc.constantFrom<Fault>("500", "409", "cut-half", "cut-after"), { maxLength: 3 });
  const sizes = fc.array(fc.integer({ min: 1, max: 200_000 }), { minLength: 1, maxLength: 6 });
  let run = 0;
  await fc.assert(
    fc.asyncProperty(faults, sizes, async (planned, lengths) => {
      const path = `/up/p${++run}`;
      store.faults = [...planned];
      const upload = start(path);
      const pieces = lengths.map((n, i) => noise(n, i));
      for (const piece of pieces) await upload.write(piece);
      expect(await upload.finish()).toBe(lengths.reduce((a, b) => a + b));
      expect(store.stored(path).equals(Buffer.concat(pieces))).toBe(true);
    }),
    { numRuns: 8 },
  );
}, 60_000);

test("a few bytes do not wait for more", async () => {
  const upload = start();
  await upload.write(Buffer.from("few"));
  await expect.poll(() => store.stored("/up/1").toString()).toBe("few");
  await expect.poll(() => upload.stored).toBe(3);
});

test("while the control plane stalls, writing waits: at most one chunk on its way and one on hand", async () => {
  store.faults = ["stall"];
  const upload = start();
  let written = 0;
  const writing = (async () => {
    for (let i = 0; i < 40; i++) {
      await upload.write(noise(64 * 1024, i));
      written += 64 * 1024;
    }
  })();
  await expect.poll(() => store.puts.length, { timeout: 10_000 }).toBe(1);
  await expect.poll(() => written).toBeGreaterThanOrEqual(256 * 1024 + 192 * 1024);
  const waiting = Symbol("waiting");
  expect(await Promise.race([writing, new Promise((r) => setTimeout(r, 100, waiting))])).toBe(waiting);
  expect(written).toBeLessThanOrEqual(2 * 256 * 1024);
  store.release();
  await writing;
  expect(await upload.finish()).toBe(40 * 64 * 1024);
});

test("a refusal ends it at once, with a code and without the token", async () => {
  store.faults = ["403"];
  const upload = start();
  await upload.write(Buffer.from("x"));
  const error = await upload.finish().catch((e: unknown) => e);
  expect(error).toMatchObject({ code: "upload_refused", message: expect.stringMatching(/403/) });
  expect(String(error)).not.toContain("secret");
});

test("when time is up the upload ends rather than trying for ever", async () => {
  store.faults = Array.from({ length: 100 }, () => "500" as const);
  const time = new AbortController();
  const upload = start("/up/1", time.signal);
  await upload.write(Buffer.from("x"));
  const end = upload.finish().catch((e: unknown) => e);
  await expect.poll(() => store.puts.length, { timeout: 10_000 }).toBeGreaterThan(1);
  time.abort();
  expect(await end).toMatchObject({ code: "uplink_cut" });
});

test("given up, it sends nothing more and holds no connection, also while the control plane can't answer", async () => {
  store.faults = Array.from({ length: 100 }, () => "500" as const);
  let asked = 0;
  store.server.on("request", () => asked++);
  const connections = () => promisify(store.server.getConnections.bind(store.server))();
  const stalled = start("/up/2");
  const failing = start();
  await failing.write(Buffer.from("x"));
  await expect.poll(() => asked, { timeout: 10_000 }).toBeGreaterThan(1);
  failing.abandon();
  await expect.poll(() => failing.failed.aborted).toBe(true);
  store.faults = ["stall"];
  const before = store.puts.length;
  await stalled.write(Buffer.from("x"));
  await expect.poll(() => store.puts.length, { timeout: 10_000 }).toBe(before + 1);
  stalled.abandon();
  await expect.poll(() => stalled.failed.aborted).toBe(true);
  await expect.poll(connections).toBe(0);
  await expect(stalled.write(Buffer.from("x"))).rejects.toThrow("given up");
});
