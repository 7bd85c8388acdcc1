import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { count } from "drizzle-orm";
import { expect, onTestFinished, test, vi } from "vitest";
import * as t from "../db/schema/index.ts";
import { clientOf, signedIn, startOn, temporaryDirectory } from "../testing/embedded.ts";
import { FakeAgent } from "../testing/fake-agent.ts";
import { dumpTables } from "../testing/tables.ts";
import type { Embedded } from "./embedded.ts";

async function dataDir(): Promise<string> {
  const directory = await temporaryDirectory();
  onTestFinished(() => directory.remove());
  return directory.path;
}

/** Starts, and stops when the test ends unless the test did. */
async function start(path: string, more: Record<string, string> = {}): Promise<Embedded> {
  const embedded = await startOn(path, more);
  let stopped: Promise<void> | undefined;
  const { stop } = embedded;
  embedded.stop = () => {
    stopped ??= stop();
    return stopped;
  };
  onTestFinished(() => embedded.stop());
  return embedded;
}

test("stopped and started again on the same data, everything is there: sessions, rows, key; and no second administrator", async () => {
  const path = await dataDir();
  const first = await start(path);
  const admin = first.admin;
  if (admin === undefined) throw new Error("no administrator");
  const signed = await clientOf(first.url)<{ token: string }>("POST", "/sessions", {
    name: admin.name,
    password: admin.password,
  });
  const client = clientOf(first.url, signed.body.token);
  expect((await client("PUT", "/regions/hk", { name: "Hong Kong" })).status).toBe(200);
  const user = await client<{ id: string }>("POST", "/users", { name: "customer", password: "a good password" });
  const credit = (url: string) =>
    clientOf(url, signed.body.token)(
      "POST",
      `/users/${user.body.id}/credits`,
      { amountFen: 100, reason: "test" },
      { "idempotency-key": "once" },
    );
  const credited = await credit(first.url);
  const before = await dumpTables(first.ports);
  const key = first.ports.signer.publicKey;
  await first.stop();

  const second = await start(path);
  expect(second.admin).toBeUndefined();
  expect(await dumpTables(second.ports)).toEqual(before);
  expect(second.ports.signer.publicKey).toBe(key);
  const me = await clientOf(second.url, signed.body.token)<{ name: string }>("GET", "/me");
  expect([me.status, me.body.name]).toEqual([200, "admin"]);
  expect((await credit(second.url)).text).toBe(credited.text);
  const [users] = await second.ports.db.read.select({ n: count() }).from(t.users);
  expect(users?.n).toBe(2);
});

test("what it keeps can be read by its own user only", async () => {
  const path = join(await dataDir(), "data");
  await start(path);
  const mode = async (name: string) => ((await stat(join(path, name))).mode & 0o777).toString(8);
  expect([await mode("."), await mode("trunkline.db"), await mode("signing.key")]).toEqual(["700", "600", "600"]);
});

test("the public address of a free port is the one it got, so that its own pages may change things", async () => {
  const embedded = await start(await dataDir());
  expect(embedded.ports.settings.publicUrl).toBe(embedded.url);
  const document = await clientOf(embedded.url)<{ servers: { url: string }[] }>("GET", "/openapi.json");
  expect(document.body.servers).toEqual([{ url: embedded.url }]);
});

test("draining says goodbye to every host, each with another time to come back, and answers what is under way", async () => {
  const embedded = await start(await dataDir());
  const { admin } = embedded;
  if (admin === undefined) throw new Error("no administrator");
  const client = await signedIn(embedded.url, admin.name, admin.password);
  await client("PUT", "/regions/hk", { name: "Hong Kong" });
  const { body } = await client<{ token: string }>("POST", "/enrolment-tokens", {
    role: "forward",
    regionId: "hk",
    maxUses: 12,
  });
  const agents = Array.from({ length: 12 }, () => new FakeAgent("forward"));
  for (const agent of agents) {
    await agent.enrol(embedded.url, body.token);
    await agent.join(embedded.url);
  }
  // A sign-in takes its time: it is on its way when the process is told to stop.
  const underWay = client("POST", "/sessions", { name: admin.name, password: admin.password });
  await vi.waitFor(async () => {
    const windows = await embedded.ports.db.read.select().from(t.rateWindows);
    expect(windows.some((row) => row.count >= 2)).toBe(true);
  });
  const stopping = embedded.stop();
  const byes = await Promise.all(agents.map((agent) => agent.link.next("bye")));
  expect(byes.map((bye) => bye.reason)).toEqual(Array(12).fill("draining"));
  for (const { reconnectAfterMs } of byes) {
    expect(reconnectAfterMs).toBeGreaterThanOrEqual(200);
    expect(reconnectAfterMs).toBeLessThanOrEqual(3_000);
  }
  expect(new Set(byes.map((bye) => bye.reconnectAfterMs)).size).toBeGreaterThan(4);
  expect((await Promise.all(agents.map((agent) => agent.link.gone()))).map((gone) => gone.code)).toEqual(
    Array(12).fill(1001),
  );
  expect((await underWay).status).toBe(201);
  await stopping;
  await expect(fetch(`${embedded.url}/healthz`)).rejects.toThrow();
});

test("health, readiness and metrics answer without a sign-in", async () => {
  const embedded = await start(await dataDir());
  const client = clientOf(embedded.url);
  expect((await client("GET", "/healthz")).body).toEqual({ ok: true });
  expect((await client("GET", "/readyz")).body).toEqual({ ok: true });
  const metrics = await client("GET", "/metrics");
  expect(metrics.text).toContain('trunkline_http_requests_total{route="GET /healthz",status="200"} 1');
});

/** The real process, as `npm start` runs it. */
async function run(path: string): Promise<{ child: ChildProcess; output(): string }> {
  let text = "";
  const child = spawn(process.execPath, [resolve(import.meta.dirname, "node.ts")], {
    env: { ...process.env, PORT: "0", DATA_DIR: path },
    stdio: ["ignore", "pipe", "pipe"],
  });
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  await vi.waitFor(
    () => {
      if (!text.includes('"listening"')) throw new Error(`it does not listen: ${text}`);
    },
    { timeout: 30_000, interval: 20 },
  );
  return { child, output: () => text };
}

test("the first start of the process prints the administrator's password once, the second none; it ends by itself on SIGTERM", async () => {
  const path = await dataDir();
  const first = await run(path);
  expect(first.output()).toMatch(/name: admin\n {2}password: [A-Za-z0-9_-]{24}\n/);
  const password = /password: (\S+)/.exec(first.output())?.[1] ?? "";
  first.child.kill("SIGTERM");
  expect(await once(first.child, "exit")).toEqual([0, null]);

  const second = await run(path);
  expect(second.output()).not.toContain("password");
  const url = /"url":"([^"]+)"/.exec(second.output())?.[1] ?? "";
  await signedIn(url, "admin", password);
  second.child.kill("SIGTERM");
  expect(await once(second.child, "exit")).toEqual([0, null]);
  // It went into no log line.
  expect(second.output()).not.toContain(password);
});

test("a wrong configuration stops the process at once, and names the variable", async () => {
  const child = spawn(process.execPath, [resolve(import.meta.dirname, "node.ts")], {
    env: { ...process.env, PORT: "eighty", DATA_DIR: await dataDir() },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  expect(await once(child, "close")).toEqual([1, null]);
  expect(text).toContain("PORT");
});
