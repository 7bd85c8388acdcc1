import { randomBytes } from "node:crypto";
import { poll } from "../../scripts/lab/poll.ts";
import { type RedisServer, startRedis } from "../../scripts/redis.ts";
import type { Id } from "../../shared/ids.ts";
import type { HostRole } from "../../shared/protocol/enrolment.ts";
import { type Client, signedIn, temporaryDirectory } from "./embedded.ts";
import { FakeAgent } from "./fake-agent.ts";
import { type Process, startMigrated, startProcess } from "./processes.ts";
import { PRICE_ID, SERVICE_TYPE } from "./world.ts";

/** Two control-plane processes on one libSQL server, with a line: customers and operators talk to A, the hosts are linked to B. */
export type ScaledWorld = {
  a: Process;
  b: Process;
  redis: RedisServer;
  admin: Client;
  /** With what the administrator signs in. */
  adminSignIn: { name: string; password: string };
  customer: Client;
  agents: Record<HostRole, FakeAgent>;
  lineId: Id<"lin">;
  environment: Record<string, string>;
  stop(): Promise<void>;
};

/** The body of an answer below 300; throws for any other. */
export async function ok<T>(answer: Promise<{ status: number; text: string; body: T }>): Promise<T> {
  const { status, text, body } = await answer;
  if (status >= 300) throw new Error(`${status} ${text}`);
  return body;
}

/** Starts it all. What a test replaces in the answer (a process, Redis) is what `stop` stops. */
export async function startScaledWorld(): Promise<ScaledWorld> {
  const { sqld, admin: made } = await startMigrated();
  const redis = await startRedis();
  const directory = await temporaryDirectory();
  const environment = {
    DATABASE_URL: sqld.url,
    REDIS_URL: redis.url,
    SIGNING_KEY: randomBytes(32).toString("base64"),
    DATA_DIR: directory.path,
    PORT_QUARANTINE_S: "0",
  };
  const [a, b] = await Promise.all([startProcess(environment), startProcess(environment)]);
  const admin = await signedIn(a.url, made.name, made.password);
  await ok(admin("PUT", "/regions/cn-guangzhou", { name: "Guangzhou" }));
  await ok(admin("PUT", "/regions/uae-dubai", { name: "Dubai", sourceRegionId: "cn-guangzhou" }));
  await ok(admin("PUT", "/products/path-golden", { name: "Golden", lineType: "golden" }));
  await ok(admin("PUT", `/${PRICE_ID}/price`, { monthlyFen: 1000 }));
  await ok(admin("PUT", `/service-types/${SERVICE_TYPE}`, { name: "TK", cidrs: ["203.0.113.0/24"] }));
  const enrol = async (role: HostRole, regionId: string, n: number) => {
    const { token } = await ok(admin<{ token: string }>("POST", "/enrolment-tokens", { role, regionId }));
    const agent = new FakeAgent(role);
    await agent.enrol(a.url, token);
    const addresses = { publicAddress: `198.51.100.${n}`, privateAddress: `10.9.0.${n}`, privateNetwork: "udpn" };
    await ok(admin("PATCH", `/hosts/${agent.hostId}`, addresses));
    await ok(admin("POST", `/hosts/${agent.hostId}/approve`));
    await agent.join(b.url);
    return agent;
  };
  const agents = {
    boarding: await enrol("boarding", "cn-guangzhou", 1),
    forward: await enrol("forward", "cn-guangzhou", 2),
    exit: await enrol("exit", "uae-dubai", 3),
  };
  await ok(admin("POST", "/pairs", { boardingHostId: agents.boarding.hostId, forwardHostId: agents.forward.hostId }));
  const user = await ok(admin<{ id: string }>("POST", "/users", { name: "mei", password: "a good password" }));
  await ok(admin("POST", `/users/${user.id}/certification`, { state: "passed", reason: "papers" }));
  await ok(admin("POST", `/users/${user.id}/credits`, { amountFen: 100_000, reason: "test" }));
  const customer = await signedIn(a.url, "mei", "a good password");
  const quote = await ok(
    customer<{ id: string }>("POST", "/quotes", { priceId: PRICE_ID, chargeType: "month", periods: 1 }),
  );
  const order = await ok(
    customer<{ id: string }>("POST", "/orders", { quoteId: quote.id, serviceTypeIds: [SERVICE_TYPE] }),
  );
  await ok(customer("POST", `/orders/${order.id}/pay`, { channel: "balance" }));
  const lineId = await poll(
    async () => {
      const { items } = await ok(customer<{ items: { id: Id<"lin">; state: string }[] }>("GET", "/lines"));
      return items.find((line) => line.state === "active")?.id;
    },
    { what: "the line to be active", timeoutMs: 60_000, everyMs: 100 },
  );
  const world: ScaledWorld = {
    ...{ a, b, redis, admin, adminSignIn: made, customer, agents, lineId, environment },
    async stop() {
      for (const agent of Object.values(agents)) agent.link.cut();
      await Promise.all([world.a.stop(), world.b.stop()]);
      await world.redis.stop();
      await sqld.stop();
      await directory.remove();
    },
  };
  return world;
}
