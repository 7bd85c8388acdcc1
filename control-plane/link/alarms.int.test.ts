import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Embedded } from "../entry/embedded.ts";
import { type Client, signedIn, startOn, temporaryDirectory } from "../testing/embedded.ts";
import { FakeAgent } from "../testing/fake-agent.ts";

const DAY_MS = 86_400_000;

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let server: Embedded;
let admin: Client;

beforeAll(async () => {
  directory = await temporaryDirectory();
  server = await startOn(directory.path);
  admin = await signedIn(server.url, server.admin?.name ?? "", server.admin?.password ?? "");
  await admin("PUT", "/regions/uae-dubai", { name: "Dubai" });
});

afterAll(async () => {
  await server?.stop();
  await directory?.remove();
});

async function enrolled(): Promise<FakeAgent> {
  const { body } = await admin<{ token: string }>("POST", "/enrolment-tokens", { role: "exit", regionId: "uae-dubai" });
  const agent = new FakeAgent("exit");
  await agent.enrol(server.url, body.token);
  return agent;
}

async function eventsOf(agent: FakeAgent, kind: string): Promise<{ detail: string }[]> {
  const { body } = await admin<{ items: { kind: string; detail: string }[] }>("GET", `/hosts/${agent.hostId}/events`);
  return body.items.filter((event) => event.kind === kind);
}

const until = <T>(what: () => Promise<T>) => vi.waitFor(what, { timeout: 10_000, interval: 20 });

test("sessions of one host that keep replacing each other raise an alarm: the identity is on two machines", async () => {
  const agent = await enrolled();
  await agent.join(server.url);
  for (let i = 0; i < 3; i++) {
    expect(await eventsOf(agent, "identity_cloned")).toEqual([]);
    const before = agent.link;
    await agent.join(server.url);
    await before.gone();
  }
  await until(async () => expect(await eventsOf(agent, "identity_cloned")).toHaveLength(1));
  expect(await eventsOf(agent, "session_superseded")).toHaveLength(3);
});

test("a host whose clock is a day off is reported once, and its tasks carry a deadline by its own clock", async () => {
  const agent = await enrolled();
  agent.clockOffsetMs = -DAY_MS;
  const link = await agent.join(server.url);
  await until(async () => expect(await eventsOf(agent, "clock_skew")).toHaveLength(1));
  expect((await eventsOf(agent, "clock_skew"))[0]?.detail).toMatch(/864\d\d s behind/);

  const deadlineAt = Date.now() + 10_000;
  const params = { target: "10.13.13.2", interface: null, count: 1, intervalMs: 1000 };
  const events = server.ports.fleet.runTask(agent.hostId, { kind: "ping", params }, { deadlineAt });
  const first = events[Symbol.asyncIterator]().next();
  const task = await link.next("task");
  expect(Math.abs(task.deadlineAt - (deadlineAt - DAY_MS))).toBeLessThan(1000);
  link.send({ t: "task.end", id: task.id, outcome: { ok: true, result: null } });
  expect((await first).value).toMatchObject({ type: "end" });
});

test("a host that came back before its old socket died is no alarm", async () => {
  const agent = await enrolled();
  await agent.join(server.url);
  await agent.join(server.url);
  await until(async () => expect(await eventsOf(agent, "session_superseded")).toHaveLength(1));
  expect(await eventsOf(agent, "identity_cloned")).toEqual([]);
});
