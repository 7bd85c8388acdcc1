import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Id } from "../../shared/ids.ts";
import type { TaskRequest } from "../../shared/protocol/tasks.ts";
import * as t from "../db/schema/index.ts";
import type { Embedded } from "../entry/embedded.ts";
import type { TaskEvent } from "../ports/index.ts";
import { failOverdueCapture } from "../services/captures/fail-overdue.ts";
import { runCapture } from "../services/captures/run.ts";
import { systemContext } from "../services/context.ts";
import { cancelTasks } from "../services/tasks/ask.ts";
import { type Client, signedIn, startOn, temporaryDirectory } from "../testing/embedded.ts";
import { FakeAgent } from "../testing/fake-agent.ts";

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let server: Embedded;
let admin: Client;
let agent: FakeAgent;

beforeAll(async () => {
  directory = await temporaryDirectory();
  server = await startOn(directory.path);
  if (server.admin === undefined) throw new Error("no administrator");
  admin = await signedIn(server.url, server.admin.name, server.admin.password);
  await admin("PUT", "/regions/hk", { name: "Hong Kong" });
  const { body } = await admin<{ token: string }>("POST", "/enrolment-tokens", { role: "forward", regionId: "hk" });
  agent = new FakeAgent("forward");
  await agent.enrol(server.url, body.token);
  await agent.join(server.url);
});

afterAll(async () => {
  agent?.link.cut();
  await server?.stop();
  await directory?.remove();
});

const PING: TaskRequest = {
  kind: "ping",
  params: { target: "10.13.13.2", interface: null, count: 1, intervalMs: 1000 },
};

type Options = { deadlineAt?: number; signal?: AbortSignal; subject?: string };
function run(options: Options = {}, task = PING): AsyncIterator<TaskEvent> {
  const deadlineAt = options.deadlineAt ?? Date.now() + 30_000;
  return server.ports.fleet.runTask(agent.hostId, task, { ...options, deadlineAt })[Symbol.asyncIterator]();
}
const sent = async (before: number) => {
  await vi.waitFor(() => expect(agent.link.of("task").length).toBeGreaterThan(before), { timeout: 10_000 });
  return agent.link.of("task")[before] ?? expect.fail();
};
const rows = () => server.ports.db.read.select().from(t.tasks);

test("a task's row is what counts: written before it is sent, and ended with its outcome, its parameters gone", async () => {
  const before = agent.link.of("task").length;
  const events = run();
  const first = events.next();
  const task = await sent(before);
  const row = async () => (await rows()).find((r) => r.id === task.id);
  expect(await row()).toMatchObject({ state: "sent", epoch: agent.epoch, params: PING.params });
  agent.link.send({ t: "task.event", id: task.id, seq: 0, data: "half" });
  expect((await first).value).toEqual({ type: "event", seq: 0, data: "half" });
  agent.link.send({ t: "task.end", id: task.id, outcome: { ok: true, result: 7 } });
  expect((await events.next()).value).toMatchObject({ type: "end", outcome: { ok: true, result: 7 } });
  expect(await row()).toMatchObject({ state: "ended", outcome: { ok: true, result: 7 }, params: null });
});

test("a host that never answers does not keep anybody waiting past the deadline", async () => {
  const events = run({ deadlineAt: Date.now() + 100 });
  expect((await events.next()).value).toMatchObject({
    type: "end",
    outcome: { ok: false, error: { code: "deadline" } },
  });
});

test("a task for a host that no process holds ends as such, and is never sent later", async () => {
  const { body } = await admin<{ token: string }>("POST", "/enrolment-tokens", { role: "forward", regionId: "hk" });
  const absent = new FakeAgent("forward");
  await absent.enrol(server.url, body.token);
  const deadlineAt = Date.now() + 60_000;
  const events = server.ports.fleet.runTask(absent.hostId, PING, { deadlineAt })[Symbol.asyncIterator]();
  const { value } = await events.next();
  expect(value).toMatchObject({ outcome: { ok: false, error: { code: "host_not_online" } } });
  await absent.join(server.url);
  server.ports.fleet.wakeTasks([absent.hostId]);
  const before = agent.link.of("task").length;
  const other = run().next();
  agent.link.send({ t: "task.end", id: (await sent(before)).id, outcome: { ok: true, result: null } });
  await other;
  expect(absent.link.of("task")).toEqual([]);
  absent.link.cut();
});

test("another host's words about a task count for nothing", async () => {
  const { body } = await admin<{ token: string }>("POST", "/enrolment-tokens", { role: "forward", regionId: "hk" });
  const liar = new FakeAgent("forward");
  await liar.enrol(server.url, body.token);
  const link = await liar.join(server.url);
  const before = agent.link.of("task").length;
  const events = run();
  const first = events.next();
  const task = await sent(before);
  link.send({ t: "task.event", id: task.id, seq: 0, data: "lie" });
  link.send({ t: "task.end", id: task.id, outcome: { ok: true, result: "lie" } });
  link.send({ t: "observe", at: 1, values: { load1: 1 }, events: [] });
  await vi.waitFor(async () =>
    expect((await server.ports.db.read.select().from(t.hosts)).find((h) => h.id === liar.hostId)?.observed).toEqual({
      load1: 1,
    }),
  );
  agent.link.send({ t: "task.end", id: task.id, outcome: { ok: true, result: "truth" } });
  expect((await first).value).toMatchObject({ outcome: { result: "truth" } });
  link.cut();
});

test("all tasks of one subject are cancelled together, and no others", async () => {
  const before = agent.link.of("task").length;
  const mine = run({ subject: "a" });
  const yours = run({ subject: "b" });
  const ends = [mine.next(), yours.next()];
  await sent(before + 1);
  const tasks = agent.link.of("task").slice(before);
  const subjectOf = new Map((await rows()).map((row) => [row.id, row.subject]));
  const ofA = tasks.find((task) => subjectOf.get(task.id) === "a") ?? expect.fail();
  const ofB = tasks.find((task) => subjectOf.get(task.id) === "b") ?? expect.fail();
  const ctx = systemContext(server.ports, "test");
  expect(await cancelTasks(ctx, { subject: "a", kind: "capture" })).toBe(0);
  expect(await cancelTasks(ctx, { subject: "a" })).toBe(1);
  await agent.link.next("task.cancel", (frame) => frame.id === ofA.id);
  for (const { id } of [ofA, ofB]) agent.link.send({ t: "task.end", id, outcome: { ok: true, result: null } });
  await Promise.all(ends);
  expect(agent.link.of("task.cancel").some((frame) => frame.id === ofB.id)).toBe(false);
});

test("an overdue capture lets go of a forward host that never said that it waits", async () => {
  const before = agent.link.of("task").length;
  const ctx = systemContext(server.ports, "test");
  const id: Id<"cap"> = `cap_${"0".repeat(26)}`;
  const [host] = await server.ports.db.read.select().from(t.hosts);
  if (host === undefined) throw new Error("no host");
  const capture = {
    id,
    ...{ seconds: 60, maxBytes: 1000, maxPackets: null, snapLength: 128, point: "tunnel", filter: "" },
  } as typeof t.captures.$inferSelect;
  const forward = { ...host, id: agent.hostId, privateAddress: "10.0.0.1" };
  const over = runCapture(ctx, capture, { exit: host, forward }, "tl_up_x");
  const task = await sent(before);
  expect(task.kind).toBe("uplink");
  await failOverdueCapture(ctx, id);
  await agent.link.next("task.cancel", (frame) => frame.id === task.id);
  agent.link.send({ t: "task.end", id: task.id, outcome: { ok: false, error: { code: "cancelled", detail: "x" } } });
  await over;
});
