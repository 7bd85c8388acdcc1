import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { type Namespace, NetLab } from "../scripts/lab/netns.ts";
import { createExec } from "./exec.ts";
import { pingMany } from "./ping-many.ts";
import { allPids, argvOf } from "./proc.ts";

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

const ping = (targets: string[]) =>
  pingMany(createExec({ prefix: near.argv([]) }), targets, {
    ...{ count: 5, atOnce: 4 },
    signal: new AbortController().signal,
  });

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

/** How a round ends for which `ping` is a script: this one for one target, the real one for the others. */
async function pingBy(script: string, targets: string[], atOnce: number, signal = new AbortController().signal) {
  const bin = mkdtempSync(join(tmpdir(), "trunkline-ping-"));
  onTestFinished(() => rmSync(bin, { recursive: true }));
  const text = `#!/bin/sh\ncase "$*" in *10.0.0.97) ${script} ;; esac\nexec /usr/bin/ping "$@"\n`;
  writeFileSync(join(bin, "ping"), text, { mode: 0o755 });
  const exec = createExec({ prefix: near.argv(["env", `PATH=${bin}:${process.env.PATH}`]) });
  return pingMany(exec, targets, { count: 5, atOnce, signal });
}

test("an agent that stops does not wait for its pings, and leaves none behind", async () => {
  const stop = new AbortController();
  // They would take an hour.
  const pings = () => allPids().filter((pid) => argvOf(pid).join(" ") === "sleep 3601.97");
  let end = "";
  const targets = Array.from({ length: 32 }, () => "10.0.0.97");
  pingBy("exec sleep 3601.97", targets, 4, stop.signal).catch((error: unknown) => {
    end = String(error);
  });
  await expect.poll(() => pings().length, { timeout: 10_000 }).toBe(4);
  stop.abort();
  await expect.poll(() => end, { timeout: 10_000 }).toContain("no longer wanted");
  await expect.poll(pings).toEqual([]);
});

test.each([
  ["a ping that ends as none should", "exit 255"],
  ["a ping that is killed", "kill -9 $$"],
])(
  "a round cut short by %s keeps what the others said, and who was not reached counts for nothing",
  async (_name, end) => {
    const { rttsMs, complaint } = await pingBy(end, ["10.0.0.10", "10.0.0.11", "10.0.0.97", "10.0.0.12"], 1);
    expect([...rttsMs].map(([target, rtts]) => [target, rtts.length])).toEqual([
      ["10.0.0.10", 5],
      ["10.0.0.11", 5],
    ]);
    expect(complaint).toMatch(/ended with 12[45]/);
  },
);

test("without ping at all the round is an error, not thirty-two paths that lost everything", async () => {
  const bin = mkdtempSync(join(tmpdir(), "trunkline-ping-"));
  onTestFinished(() => rmSync(bin, { recursive: true }));
  symlinkSync("/usr/bin/xargs", join(bin, "xargs"));
  const exec = createExec({ prefix: near.argv(["env", `PATH=${bin}`]) });
  const signal = new AbortController().signal;
  await expect(pingMany(exec, ["10.0.0.10"], { count: 1, atOnce: 1, signal })).rejects.toThrow();
});
