import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { poll } from "../../scripts/lab/poll.ts";
import { type RedisServer, startRedis } from "../../scripts/redis.ts";
import type { Sqld } from "../../scripts/sqld.ts";
import type { Id } from "../../shared/ids.ts";
import type { HostRole } from "../../shared/protocol/enrolment.ts";
import { type Client, signedIn, temporaryDirectory } from "../testing/embedded.ts";
import { FakeAgent } from "../testing/fake-agent.ts";
import { note } from "../testing/note.ts";
import { type Process, startMigrated, startProcess } from "../testing/processes.ts";
import { PRICE_ID, SERVICE_TYPE } from "../testing/world.ts";

/** Two control-plane processes on one libSQL server: customers talk to A, the hosts are linked to B. */

let sqld: Sqld;
let redis: RedisServer;
let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let a: Process;
let b: Process;
let admin: Client;
let customer: Client;
let agents: Record<HostRole, FakeAgent>;
let lineId: Id<"lin">;
let environment: Record<string, string>;

async function ok<T>(answer: Promise<{ status: number; text: string; body: T }>): Promise<T> {
  const { status, text, body } = await answer;
  if (status >= 300) throw new Error(`${status} ${text}`);
  return body;
}

type Opened = { id: string; ready: { forward: boolean; exit: boolean } };

/** Opens on A; answers what came of it and how long it took. */
async function open(waitMs = 20_000): Promise<Opened & { ms: number }> {
  const from = performance.now();
  const opened = await ok(customer<Opened>("POST", `/connections?waitMs=${waitMs}`, { lineId, generate: true }));
  return { ...opened, ms: Math.round(performance.now() - from) };
}

async function enrol(role: HostRole, regionId: string, publicAddress: string): Promise<FakeAgent> {
  const { token } = await ok(admin<{ token: string }>("POST", "/enrolment-tokens", { role, regionId }));
  const agent = new FakeAgent(role);
  await agent.enrol(a.url, token);
  await ok(admin("PATCH", `/hosts/${agent.hostId}`, { publicAddress }));
  await ok(admin("POST", `/hosts/${agent.hostId}/approve`));
  await agent.join(b.url);
  return agent;
}

beforeAll(async () => {
  let made: { name: string; password: string };
  ({ sqld, admin: made } = await startMigrated());
  redis = await startRedis();
  directory = await temporaryDirectory();
  environment = {
    DATABASE_URL: sqld.url,
    REDIS_URL: redis.url,
    SIGNING_KEY: randomBytes(32).toString("base64"),
    DATA_DIR: directory.path,
    PORT_QUARANTINE_S: "0",
  };
  [a, b] = await Promise.all([startProcess(environment), startProcess(environment)]);
  admin = await signedIn(a.url, made.name, made.password);
  await ok(admin("PUT", "/regions/cn-guangzhou", { name: "Guangzhou" }));
  await ok(admin("PUT", "/regions/uae-dubai", { name: "Dubai", sourceRegionId: "cn-guangzhou" }));
  await ok(admin("PUT", "/products/path-golden", { name: "Golden", lineType: "golden" }));
  await ok(admin("PUT", `/${PRICE_ID}/price`, { monthlyFen: 1000 }));
  await ok(admin("PUT", `/service-types/${SERVICE_TYPE}`, { name: "TK", cidrs: ["203.0.113.0/24"] }));
  agents = {
    boarding: await enrol("boarding", "cn-guangzhou", "198.51.100.1"),
    forward: await enrol("forward", "cn-guangzhou", "198.51.100.2"),
    exit: await enrol("exit", "uae-dubai", "198.51.100.3"),
  };
  await ok(admin("POST", "/pairs", { boardingHostId: agents.boarding.hostId, forwardHostId: agents.forward.hostId }));
  const user = await ok(admin<{ id: string }>("POST", "/users", { name: "mei", password: "a good password" }));
  await ok(admin("POST", `/users/${user.id}/certification`, { state: "passed", reason: "papers" }));
  await ok(admin("POST", `/users/${user.id}/credits`, { amountFen: 100_000, reason: "test" }));
  customer = await signedIn(a.url, "mei", "a good password");
  const quote = await ok(
    customer<{ id: string }>("POST", "/quotes", { priceId: PRICE_ID, chargeType: "month", periods: 1 }),
  );
  const order = await ok(
    customer<{ id: string }>("POST", "/orders", { quoteId: quote.id, serviceTypeIds: [SERVICE_TYPE] }),
  );
  await ok(customer("POST", `/orders/${order.id}/pay`, { channel: "balance" }));
  lineId = await poll(
    async () => {
      const { items } = await ok(customer<{ items: { id: Id<"lin">; state: string }[] }>("GET", "/lines"));
      return items.find((line) => line.state === "active")?.id;
    },
    { what: "the line to be active", timeoutMs: 60_000, everyMs: 100 },
  );
}, 120_000);

afterAll(async () => {
  for (const agent of Object.values(agents ?? {})) agent.link.cut();
  await Promise.all([a?.stop(), b?.stop()]);
  await redis?.stop();
  await sqld?.stop();
  await directory?.remove();
});

test("a connection opened on process A reaches hosts linked to process B, woken by Redis", async () => {
  const { ready, ms } = await open();
  note(`opened on A, applied on B's hosts after ${ms} ms, with Redis`);
  expect(ready).toEqual({ forward: true, exit: true });
});

test("Redis emptied or gone costs seconds, never state: B finds the change by itself", async () => {
  const { port } = redis;
  await redis.stop();
  const { ready, ms } = await open();
  note(`opened on A, applied on B's hosts after ${ms} ms, without Redis`);
  expect(ready).toEqual({ forward: true, exit: true });
  // Back at the same place and empty: both processes find it again by themselves.
  redis = await startRedis(port);
  await poll(async () => (await open()).ms < 2000, { what: "wake-ups to go by Redis again", timeoutMs: 30_000 });
});

test("a host that joins A is B's no longer: its older session is closed, and acks there count for nothing", async () => {
  const old = agents.exit.link;
  await agents.exit.join(a.url);
  const { reason } = await old.gone();
  expect(reason).toBe("superseded");
  expect((await open()).ready).toEqual({ forward: true, exit: true });
});

test("a process that is killed takes no state with it: its hosts join the other one and go on", async () => {
  await b.kill9();
  for (const agent of Object.values(agents)) await agent.join(a.url);
  expect((await open()).ready).toEqual({ forward: true, exit: true });
  b = await startProcess(environment);
});
