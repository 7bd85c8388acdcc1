import { afterAll, beforeAll, expect, test } from "vitest";
import { type Namespace, NetLab } from "../../scripts/lab/netns.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { startTask } from "../../scripts/lab/task.ts";
import type { PingParams, PingResult } from "../../shared/protocol/tasks.ts";

let net: NetLab;
let near: Namespace;
let far: Namespace;
beforeAll(async () => {
  net = await NetLab.open("ping test");
  near = await net.namespace("near");
  far = await net.namespace("far");
  await net.link({ ns: near, name: "eth0", address: "10.0.0.1/24" }, { ns: far, name: "eth0", address: "10.0.0.2/24" });
});
afterAll(() => net?.close());

const ping = (params: Partial<PingParams>) =>
  startTask(near, {
    task: { kind: "ping", params: { target: "10.0.0.2", interface: null, count: 5, intervalMs: 50, ...params } },
  });
const resultOf = async (task: ReturnType<typeof ping>) => {
  const end = await task.end();
  if (end.type !== "result") throw new Error(JSON.stringify(end));
  return end.result as PingResult;
};

test("every answer is an event, and the result counts them", async () => {
  const task = ping({ interface: "eth0" });
  expect(await resultOf(task)).toMatchObject({ sent: 5, received: 5, lossPct: 0, longestLossRun: 0 });
  expect(task.events().map((e) => (e as { seq: number }).seq)).toEqual([1, 2, 3, 4, 5]);
});

test("answers that come late count, after a word of the silence", async () => {
  await near.exec(["ip", "neigh", "flush", "dev", "eth0"]);
  await far.ip("link set eth0 arp off"); // requests queue in our own kernel until the neighbour is known
  const task = ping({ count: 10, intervalMs: 200 });
  await poll(() => task.events().length >= 3, { what: "silence" });
  await far.ip("link set eth0 arp on");
  expect(await resultOf(task)).toMatchObject({ sent: 10, received: 10, longestLossRun: 0 });
  const seen = task.events() as { type: string; seq: number }[];
  expect(seen.slice(0, 3)).toMatchObject([1, 2, 3].map((seq) => ({ type: "no_answer_yet", seq })));
  expect(seen.filter((e) => e.type === "reply").map((e) => e.seq)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
});

test("requests that nobody answers are lost, the last one too", async () => {
  const task = ping({ target: "10.0.0.9", count: 4, intervalMs: 50 });
  expect(await resultOf(task)).toMatchObject({ sent: 4, received: 0, lossPct: 100, longestLossRun: 4, minMs: null });
  const silent = task.events() as { type: string; seq: number }[];
  expect(new Set(silent.map((e) => e.seq))).toEqual(new Set([1, 2, 3, 4]));
  expect(silent.every((e) => e.type === "no_answer_yet")).toBe(true);
});

test("a cancelled ping ends with the result so far and calls nothing lost", async () => {
  const task = ping({ count: 10_000, intervalMs: 20 });
  await poll(() => task.events().length >= 5, { what: "five answers" });
  task.cancel();
  const result = await resultOf(task);
  expect(result.received).toBeGreaterThanOrEqual(5);
  expect(result.sent).toBe(result.received);
});

test("a stop while a request is on its way does not call it lost", async () => {
  const task = ping({ target: "10.0.0.9", count: 100, intervalMs: 500 });
  await poll(() => task.events().length > 0, { what: "word of the first request, which comes with the second" });
  task.cancel();
  expect(await resultOf(task)).toMatchObject({ sent: 1, received: 0, longestLossRun: 1 });
});

test("no route and no such interface are errors with ping's own words", async () => {
  expect(await ping({ target: "10.9.9.9" }).end()).toMatchObject({
    type: "error",
    code: "ping_failed",
    detail: expect.stringMatching(/unreachable/i),
  });
  expect(await ping({ interface: "nope" }).end()).toMatchObject({
    type: "error",
    code: "ping_failed",
    detail: expect.stringMatching(/No such device/),
  });
});
