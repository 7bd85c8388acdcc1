import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@libsql/client/web";
import { eq, sql } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Sqld, startSqld } from "../../../scripts/sqld.ts";
import * as t from "../../db/schema/index.ts";
import { webClock, webRandom } from "../../entry/detached-ports.ts";
import { openHttpDatabase } from "./libsql-http.ts";
import { applyMigrations } from "./migrate.ts";

let sqld: Sqld;
/** Patience is for a server's load, and here the machine's comes on top: a tenth of the time passes. When it ends is another test's matter. */
const unhurried = { now: () => webClock.now() / 10 };
const open = () =>
  openHttpDatabase({ url: sqld.url }, { clock: unhurried, random: webRandom, sleep: (ms) => sleep(ms) });

beforeAll(async () => {
  // Room for few, so that it turns some away even on a fast machine.
  sqld = await startSqld(["--max-concurrent-connections", "16", "--max-concurrent-requests", "16"]);
  const client = createClient({ url: sqld.url });
  await applyMigrations(client, resolve(import.meta.dirname, "../../../migrations"));
  client.close();
  const row = { id: "counter", name: "0", saleable: true, sourceRegionId: null, createdAt: 1 };
  await open().write((tx) => tx.insert(t.regions).values(row));
});
afterAll(() => sqld.stop());

test("120 requests at once, each with a client of its own as at the edge, all get their turn", async () => {
  const one = async () => {
    const db = open();
    await db.read.select().from(t.regions);
    await db.write((tx) => tx.update(t.regions).set({ name: sql`name + 1` }).where(eq(t.regions.id, "counter")));
    await db.close();
  };
  await Promise.all(Array.from({ length: 120 }, one));
  const [row] = await open().read.select().from(t.regions).where(eq(t.regions.id, "counter"));
  expect(Number(row?.name)).toBe(120);
});

test("a transaction's body is run once, whatever it throws", async () => {
  let runs = 0;
  const failing = open().write(async () => {
    runs++;
    throw new Error("SQLITE_BUSY: database is locked");
  });
  await expect(failing).rejects.toThrow("SQLITE_BUSY");
  expect(runs).toBe(1);
});

test("a server that turns every request away is asked for ten seconds, then its answer is the error", async () => {
  let asked = 0;
  const server = createServer((_request, response) => {
    asked++;
    response.writeHead(429).end();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  let now = 0;
  const waiting = {
    clock: { now: () => now },
    random: webRandom,
    sleep: async (ms: number) => {
      now += ms;
    },
  };
  const db = openHttpDatabase({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }, waiting);
  await expect(db.ping()).rejects.toThrow("429");
  expect(now).toBeGreaterThanOrEqual(10_000);
  expect(asked).toBeGreaterThan(20);
  server.close();
  await db.close();
});
