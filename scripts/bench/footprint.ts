import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { AgentInNamespace } from "../../agent/testing/lab-agent.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { buildControlPlane } from "../build-control-plane.ts";
import { ROOT } from "../lab/lab.ts";
import { type Namespace, NetLab } from "../lab/netns.ts";
import { poll } from "../lab/poll.ts";
import { exec, spawn, stopChild } from "../lab/process.ts";
import { freePort } from "../sqld.ts";
import type { Numbers } from "./arguments.ts";
import { buildRelease, type Release } from "./release.ts";
import type { Report } from "./report.ts";
import { median } from "./statistics.ts";
import { cpuSeconds, residentBytes } from "./usage.ts";

const MB = 1024 * 1024;
/** Mappings a forward host holds while its connections come and go. */
const HELD = 50;

/** Memory, CPU and start of the agent, bundled as hosts run it, and the control plane; size of the edge bundle. */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { changes = 1000, seconds = 60, rounds = 5 } = numbers;
  const release = await buildRelease();
  const lab = await NetLab.open("bench footprint");
  try {
    const ns = await lab.namespace("forward");
    await agentFigures(report, ns, release, { changes, seconds, rounds });
  } finally {
    await lab.close();
    release.remove();
  }
  await controlPlaneFigures(report, rounds);
  await edgeFigure(report);
}

async function agentFigures(
  report: Report,
  ns: Namespace,
  release: Release,
  { changes, seconds, rounds }: { changes: number; seconds: number; rounds: number },
): Promise<void> {
  const agent = await AgentInNamespace.create(ns, "forward");
  const { plane } = agent;
  const where = ["--config", join(ns.dir, "agent.json"), "--state-dir", agent.stateDir];
  const env = { PATH: process.env.PATH ?? "" };
  const argv = [process.execPath, ...release.argv, "run", ...where];
  const start = () => ns.spawn(argv, { bareEnv: { ...env, ...release.env }, cwd: ROOT, logFile: agent.logFile });
  try {
    report.progress(`starts: agent to its first ack, and node alone to its end, ${rounds} times each`);
    const acks: number[] = [];
    const bareStarts: number[] = [];
    for (let round = 0; round < rounds; round++) {
      bareStarts.push(await millisecondsOf(() => exec([process.execPath, "-e", "0"], { bareEnv: env })));
      const child = start();
      const from = performance.now();
      plane.frames.length = 0;
      plane.state = { rev: round + 1, items: mappings(0) };
      await poll(() => plane.ackOf(round + 1), { what: "the agent's first ack", timeoutMs: 30_000, everyMs: 2 });
      acks.push(performance.now() - from);
      await stopChild(child);
    }
    report.add({ metric: "agent: start to first ack", value: median(acks), unit: "ms", baseline: median(bareStarts) });

    const bare = ns.spawn([process.execPath, "-e", "setInterval(() => {}, 1e6)"], { bareEnv: env });
    const child = start();
    await poll(() => plane.linked, { what: "the agent's link" });
    report.progress(`idle for ${seconds} s, linked, ${HELD} mappings`);
    await sleep(5_000);
    const [bareBefore, before] = [cpuSeconds(bare.pid ?? 0), cpuSeconds(child.pid ?? 0)];
    await sleep(seconds * 1000);
    const [bareAfter, after] = [cpuSeconds(bare.pid ?? 0), cpuSeconds(child.pid ?? 0)];
    const bareMb = residentBytes(bare.pid ?? 0) / MB;
    const idleMb = residentBytes(child.pid ?? 0) / MB;
    const percent = (from: number, to: number) => (100 * (to - from)) / seconds;
    report.add({
      metric: "agent: memory idle",
      value: idleMb,
      unit: "MB",
      baseline: bareMb,
      target: { of: "value", atMost: Math.round(bareMb + 20) },
    });
    report.add({
      metric: "agent: CPU idle, its own process",
      value: percent(before.own, after.own),
      unit: "%",
      baseline: percent(bareBefore.own, bareAfter.own),
      target: { of: "value", atMost: 0.2 },
    });
    report.add({
      metric: "agent: CPU idle, with the tools it runs",
      value: percent(before.withChildren, after.withChildren),
      unit: "%",
    });

    report.progress(`churn: ${changes} revisions, each another mapping, one after the other`);
    let highest = 0;
    const watch = setInterval(() => {
      highest = Math.max(highest, residentBytes(child.pid ?? 0));
    }, 250);
    const first = rounds + 1;
    const took = await millisecondsOf(async () => {
      for (let i = 1; i <= changes; i++) {
        plane.frames.length = 0;
        plane.want(first + i, mappings(i));
        await poll(() => plane.ackOf(first + i), { what: `ack ${first + i}`, everyMs: 1 });
      }
    });
    report.add({ metric: "agent: one change, state sent to ack", value: took / changes, unit: "ms" });
    await sleep(3_000);
    clearInterval(watch);
    report.add({
      metric: `agent: memory after ${changes} changes`,
      value: residentBytes(child.pid ?? 0) / MB,
      unit: "MB",
      baseline: bareMb,
      target: { of: "value", atMost: Math.round(bareMb + 20) },
    });
    report.add({ metric: "agent: most memory during churn", value: highest / MB, unit: "MB", baseline: bareMb });
    await Promise.all([stopChild(child), stopChild(bare)]);
  } finally {
    if (agent.child) await stopChild(agent.child);
    await plane.close();
  }
}

/** A forward host's state: so many mappings, of which each step replaces the oldest. */
function mappings(step: number): StateItem[] {
  return Array.from({ length: HELD }, (_, i) => {
    const n = step + i;
    const port = 30_000 + (n % 200);
    return {
      type: "relay",
      id: `con_${n}`,
      listen: { from: port, to: port },
      to: { address: `10.77.${n % 200}.9`, port: 51_820 },
      driver: "nft",
    };
  });
}

async function controlPlaneFigures(report: Report, rounds: number): Promise<void> {
  report.progress(`control plane: start to ready, ${rounds} times on a database it has made before`);
  await buildControlPlane();
  const dir = mkdtempSync(join(tmpdir(), "trunkline-bench-"));
  const HTTP = "require('node:http').createServer((q, s) => s.end()).listen(process.env.PORT, '127.0.0.1')";
  try {
    const first = await startToReady(["control-plane/entry/start.mjs"], { DATA_DIR: join(dir, "first") });
    const again: number[] = [];
    const bare: number[] = [];
    let memory = 0;
    for (let round = 0; round < rounds; round++) {
      bare.push((await startToReady(["-e", HTTP], {})).ms);
      const started = await startToReady(["control-plane/entry/start.mjs"], { DATA_DIR: join(dir, "first") });
      again.push(started.ms);
      memory = started.memory;
    }
    const target = { of: "value", atMost: 1000 } as const;
    const baseline = median(bare);
    report.add({ metric: "control plane: start to ready", value: median(again), unit: "ms", baseline, target });
    report.add({ metric: "control plane: first start to ready", value: first.ms, unit: "ms", baseline, target });
    const sources = await startToReady(["control-plane/entry/node.ts"], { DATA_DIR: join(dir, "first") });
    report.add({ metric: "control plane: start to ready, not bundled", value: sources.ms, unit: "ms", baseline });
    report.add({ metric: "control plane: memory when ready", value: memory / MB, unit: "MB" });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function startToReady(argv: readonly string[], env: Record<string, string>) {
  const port = await freePort();
  const from = performance.now();
  const bareEnv = { PATH: process.env.PATH ?? "", PORT: `${port}`, ...env };
  const child = spawn([process.execPath, ...argv], { bareEnv, cwd: ROOT });
  child.stdout?.resume();
  child.stderr?.resume();
  try {
    await poll(
      async () => {
        if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`);
        return (await fetch(`http://127.0.0.1:${port}/readyz`)).ok;
      },
      { what: "readiness", everyMs: 5, timeoutMs: 30_000 },
    );
    return { ms: performance.now() - from, memory: residentBytes(child.pid ?? 0) };
  } finally {
    await stopChild(child);
  }
}

async function edgeFigure(report: Report): Promise<void> {
  report.progress("edge bundle: wrangler deploy --dry-run");
  const out = mkdtempSync(join(tmpdir(), "trunkline-bench-edge-"));
  try {
    const wrangler = join(ROOT, "node_modules/wrangler/bin/wrangler.js");
    const argv = [process.execPath, wrangler, "deploy", "--dry-run", "--outdir", out];
    await exec(argv, { cwd: ROOT, timeoutMs: 120_000, env: { CI: "1", WRANGLER_SEND_METRICS: "false" } });
    const modules = readdirSync(out, { recursive: true, withFileTypes: true })
      .filter((file) => file.isFile() && /\.(m?js|wasm)$/.test(file.name))
      .map((file) => readFileSync(join(file.parentPath, file.name)));
    if (modules.length === 0) throw new Error("wrangler wrote no module");
    const bytes = modules.reduce((sum, module) => sum + gzipSync(module).length, 0);
    report.add({
      metric: "edge bundle, gzip",
      value: bytes / MB,
      unit: "MB",
      target: { of: "value", atMost: 1 },
    });
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

async function millisecondsOf(work: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await work();
  return performance.now() - from;
}
