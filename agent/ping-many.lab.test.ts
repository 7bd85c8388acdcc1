import { afterAll, beforeAll, expect, test } from "vitest";
import { type Namespace, NetLab } from "../scripts/lab/netns.ts";
import { createExec } from "./exec.ts";
import { pingMany } from "./ping-many.ts";

let net: NetLab;
let near: Namespace;
beforeAll(async () => {
  net = await NetLab.open("ping many test");
  near = await net.namespace("near");
  const far = await net.namespace("far");
  await net.link({ ns: near, name: "eth0", address: "10.0.0.1/24" }, { ns: far, name: "eth0", address: "10.0.0.2/24" });
  await near.ip("link set lo up");
  for (let n = 10; n < 20; n++) await far.ip(`address add 10.0.0.${n}/24 dev eth0`);
});
afterAll(() => net?.close());

const ping = (targets: string[], signal = new AbortController().signal) =>
  pingMany(createExec({ prefix: near.argv([]) }), targets, { count: 5, atOnce: 4, signal });

test("pings that run at once are told apart: who answers has five times, who does not has none, and why is told", async () => {
  const there = Array.from({ length: 10 }, (_, i) => `10.0.0.${10 + i}`);
  const { rttsMs, complaint } = await ping([...there.slice(0, 5), "10.0.0.99", "198.51.100.1", ...there.slice(5)]);
  for (const target of there) {
    const rtts = rttsMs.get(target) ?? [];
    expect([target, rtts.length]).toEqual([target, 5]);
    expect(rtts.every((rtt) => rtt >= 0 && rtt < 1000)).toBe(true);
  }
  expect([rttsMs.get("10.0.0.99"), rttsMs.get("198.51.100.1"), rttsMs.size]).toEqual([[], [], 12]);
  expect(complaint).toMatch(/unreachable/i);
});

test("an agent that stops does not wait for its pings", async () => {
  const stop = new AbortController();
  const round = ping(
    Array.from({ length: 32 }, () => "10.0.0.99"),
    stop.signal,
  );
  setTimeout(() => stop.abort(), 50);
  await expect(round).rejects.toThrow("no longer wanted");
});
