import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { startRedis } from "../../scripts/redis.ts";
import type { TaskFrame } from "../../shared/protocol/frames.ts";
import type { FakeAgent } from "../testing/fake-agent.ts";
import { note } from "../testing/note.ts";
import { startProcess } from "../testing/processes.ts";
import { ok, type ScaledWorld, startScaledWorld } from "../testing/scaled-world.ts";

/** Pings and captures asked of process A, on hosts that are linked to process B: by the database, Redis only makes it fast. */

let world: ScaledWorld;

beforeAll(async () => {
  world = await startScaledWorld();
  const body = { lineId: world.lineId, generate: true };
  await ok(world.customer("POST", "/connections?waitMs=20000", body));
}, 120_000);

afterAll(() => world?.stop());

const RESULT = {
  ...{ sent: 1, received: 1, lossPct: 0, minMs: 1, meanMs: 1, p50Ms: 1, p95Ms: 1, p99Ms: 1 },
  ...{ jitterMs: 0, longestLossRun: 0 },
};
const until = <T>(what: () => T | Promise<T>, timeout = 20_000) => vi.waitFor(what, { timeout, interval: 20 });

type Ping = { text(): string; ended: Promise<void>; abort(): void };

/** A ping of the customer from the exit, asked of a process; its stream is read as it comes. */
async function ping(url = world.a.url, body: Record<string, unknown> = { count: 1 }): Promise<Ping> {
  const abort = new AbortController();
  const token = await tokenOf(url);
  const response = await fetch(`${url}/lines/${world.lineId}/pings`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: abort.signal,
  });
  expect(response.status).toBe(200);
  let text = "";
  const ended = (async () => {
    const decoder = new TextDecoder();
    for await (const piece of response.body ?? []) text += decoder.decode(piece as Uint8Array, { stream: true });
  })().catch(() => {});
  return { text: () => text, ended, abort: () => abort.abort() };
}

/** Sessions are in the database: the token of one process is good at the other. */
async function tokenOf(url: string): Promise<string> {
  const response = await fetch(`${url}/sessions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(world.adminSignIn),
  });
  return ((await response.json()) as { token: string }).token;
}

/** The next task of that kind that this host is given. */
async function given(agent: FakeAgent, kind: string, after: readonly TaskFrame[] = []): Promise<TaskFrame> {
  return agent.link.next("task", (task) => task.kind === kind && !after.some((old) => old.id === task.id));
}
const pings = () => world.agents.exit.link.of("task");
const event = (task: TaskFrame, seq: number) =>
  world.agents.exit.link.send({ t: "task.event", id: task.id, seq, data: { type: "reply", seq, rttMs: 1.5, at: 1 } });
const end = (agent: FakeAgent, task: TaskFrame, outcome: unknown = { ok: true, result: RESULT }) =>
  agent.link.send({ t: "task.end", id: task.id, outcome });

test("a ping asked of A runs on a host of B: signed there, its answers live, its statistics last", async () => {
  const before = pings();
  const running = await ping();
  const task = await given(world.agents.exit, "ping", before);
  expect(world.agents.exit.trustsTask(task)).toBe(true);
  event(task, 0);
  await until(() => expect(running.text()).toMatch(/event: reply\n/));
  expect(running.text()).not.toContain("event: result");
  event(task, 1);
  end(world.agents.exit, task);
  await running.ended;
  expect(running.text().match(/event: (\w+)/g)).toEqual(["event: reply", "event: reply", "event: result"]);
});

test("whoever stops listening to A cancels the task on the host of B", async () => {
  const before = pings();
  const running = await ping();
  const task = await given(world.agents.exit, "ping", before);
  running.abort();
  await world.agents.exit.link.next("task.cancel", (frame) => frame.id === task.id);
});

test("a capture that A runs is stopped by B, whose hosts are told; and by A what is left of it", async () => {
  const { admin, agents, lineId } = world;
  const capture = await ok(admin<{ id: string }>("POST", `/lines/${lineId}/captures`, { reason: "looking" }));
  const uplink = await given(agents.forward, "uplink");
  // The exit is sent for only when the forward host says that it waits.
  expect(agents.exit.link.of("task").some((task) => task.kind === "capture")).toBe(false);
  agents.forward.link.send({ t: "task.event", id: uplink.id, seq: 0, data: { type: "waiting", at: 1 } });
  const captured = await given(agents.exit, "capture");
  agents.exit.link.send({ t: "task.event", id: captured.id, seq: 0, data: { type: "started", at: 1 } });
  const token = await tokenOf(world.b.url);
  const stop = await fetch(`${world.b.url}/captures/${capture.id}/stop`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}` },
  });
  expect(stop.status).toBe(200);
  await agents.exit.link.next("task.cancel", (frame) => frame.id === captured.id);
  expect(agents.forward.link.of("task.cancel")).toEqual([]);
  // The exit fails: the capture is failed with its words, and the forward host is let go.
  end(agents.exit, captured, { ok: false, error: { code: "capture_failed", detail: "tcpdump is gone" } });
  await agents.forward.link.next("task.cancel", (frame) => frame.id === uplink.id);
  await until(async () =>
    expect(await ok(admin("GET", `/captures/${capture.id}`))).toMatchObject({
      state: "failed",
      error: "exit: capture_failed: tcpdump is gone",
    }),
  );
});

test("a host of B that never answers: A ends the ping itself, soon after its deadline", async () => {
  const before = pings();
  const from = performance.now();
  const running = await ping(world.a.url, { count: 1, intervalMs: 20 });
  const task = await given(world.agents.exit, "ping", before);
  await running.ended;
  expect(running.text()).toContain('"code":"deadline"');
  expect(task.deadlineAt).toBeLessThan(Date.now());
  note(`a ping with a deadline of 15 s on a silent host ended after ${Math.round(performance.now() - from)} ms`);
});

test("without Redis a ping and its cancelling still cross, a few seconds later", async () => {
  const { port } = world.redis;
  await world.redis.stop();
  const before = pings();
  const from = performance.now();
  const running = await ping();
  const task = await given(world.agents.exit, "ping", before);
  const took = Math.round(performance.now() - from);
  event(task, 0);
  await until(() => expect(running.text()).toMatch(/event: reply\n/));
  note(
    `without Redis the host had the task after ${took} ms, its answer was there after ${Math.round(performance.now() - from)}`,
  );
  end(world.agents.exit, task);
  await running.ended;
  expect(running.text().match(/event: (\w+)/g)).toEqual(["event: reply", "event: result"]);

  const cancelled = await ping();
  const second = await given(world.agents.exit, "ping", [...before, task]);
  cancelled.abort();
  await world.agents.exit.link.next("task.cancel", (frame) => frame.id === second.id);
  world.redis = await startRedis(port);
});

test("a process that dies with the link takes the ping with it: it ends as lost once the host is linked anew", async () => {
  const before = pings();
  const running = await ping();
  await given(world.agents.exit, "ping", before);
  await world.b.kill9();
  for (const agent of Object.values(world.agents)) await agent.join(world.a.url);
  await running.ended;
  expect(running.text()).toContain('"code":"link_lost"');
  world.b = await startProcess(world.environment);
});
