import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HEARTBEAT_MS } from "../../shared/protocol/frames.ts";
import type { Numbers } from "./arguments.ts";
import { makeFleet } from "./fleet-database.ts";
import type { Report } from "./report.ts";
import { percentile } from "./statistics.ts";
import { buildSwarmServer, Fleet, needFiles, type SwarmServer } from "./swarm-fleet.ts";
import type { ChangesResult, OpensResult, ServerCommand, ServerStats } from "./swarm-messages.ts";
import { SwarmProcess } from "./swarm-process.ts";

interface Side {
  bytesPerAgent: number;
  /** CPU at rest, heartbeats only, % of one core. */
  restPercent: number;
  changes: ChangesResult;
  lagP99Ms: number;
}

/** What single operations cost on a fleet of some size. */
interface Growth {
  agents: number;
  /** CPU of a change above that of the fleet at rest, ms. */
  changeMs: number;
  /** To open a connection, waiting for no host, p50 ms; and CPU to open and close one, ms. */
  openMs: number;
  openCpuMs: number;
}

/** The same for every size, and few enough that the smallest fleet is not asked twice at a time. */
const GROWTH = { rate: 200, seconds: 10, opens: 100 };

/**
 * Many agents on one control plane process, against a bare `ws` server with as many clients and messages. With `sizes` above 1
 * also what an operation costs on a tenth of the fleet, a hundredth and so on.
 */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { agents = 10_000, rate = 1000, seconds = 20, sizes = 1 } = numbers;
  needFiles(agents);
  report.progress(`bare ws server, ${agents} clients`);
  const bareServer = await SwarmProcess.start<ServerCommand>("swarm-bare.ts");
  const bare = await linked(report, bareServer, { agents, bare: true }, () =>
    measure(report, bareServer, { agents, rate, seconds }),
  );
  const growth: Growth[] = [];
  for (let size = sizes - 1; size > 0; size--) {
    const fewer = Math.max(1, Math.round(agents / 10 ** size));
    growth.push(await onControlPlane(report, fewer, (server) => grow(report, server, fewer)));
  }
  const ours = await onControlPlane(report, agents, async (server) => {
    const side = await measure(report, server, { agents, rate, seconds });
    if (sizes > 1) growth.push(await grow(report, server, agents));
    return side;
  });
  tell(report, ours, bare, { agents, rate });
  tellGrowth(report, growth);
}

/** A control plane of its own with so many hosts linked. */
async function onControlPlane<T>(
  report: Report,
  agents: number,
  work: (server: SwarmServer) => Promise<T>,
): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), "trunkline-bench-"));
  try {
    report.progress(`${agents} hosts with a line each, written into a database of the bench's own`);
    await makeFleet(dir, agents);
    report.progress("control plane");
    const server = await SwarmProcess.start<ServerCommand>(await buildSwarmServer(), { DATA_DIR: dir, PORT: "0" });
    return await linked(report, server, { agents, bare: false }, () => work(server));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Links the fleet to the server, does the work, and ends both. */
async function linked<T>(
  report: Report,
  server: SwarmServer,
  { agents, bare }: { agents: number; bare: boolean },
  work: () => Promise<T>,
): Promise<T> {
  const fleet = new Fleet(agents);
  try {
    empty.set(server, (await server.ask<ServerStats>({ do: "stats" })).rssBytes);
    await fleet.connect(report, server.url, { bare });
    // What joining left behind goes, heartbeats settle.
    await sleep(3000);
    return await work();
  } finally {
    await Promise.all([fleet.end(), server.kill9()]);
  }
}

/** Resident memory of each server before the first host came. */
const empty = new WeakMap<SwarmServer, number>();

async function measure(
  report: Report,
  server: SwarmServer,
  { agents, rate, seconds }: { agents: number; rate: number; seconds: number },
): Promise<Side> {
  const full = await server.ask<ServerStats>({ do: "stats" });
  if (full.joined !== agents) throw new Error(`${full.joined} of ${agents} hosts are joined`);
  const restPercent = 100 * (await atRest(report, server));
  report.progress(`${rate} changes a second for ${seconds} s`);
  await server.ask({ do: "resetLag" });
  const changes = await server.ask<ChangesResult>({ do: "changes", rate, seconds });
  const { lagP99Ms } = await server.ask<ServerStats>({ do: "stats" });
  return { bytesPerAgent: (full.rssBytes - (empty.get(server) ?? 0)) / agents, restPercent, changes, lagP99Ms };
}

/** CPU at rest, of one core. */
async function atRest(report: Report, server: SwarmServer): Promise<number> {
  report.progress(`at rest for ${HEARTBEAT_MS / 1000} s: heartbeats`);
  const before = (await server.ask<ServerStats>({ do: "stats" })).cpuSeconds;
  await sleep(HEARTBEAT_MS);
  return ((await server.ask<ServerStats>({ do: "stats" })).cpuSeconds - before) / (HEARTBEAT_MS / 1000);
}

async function grow(report: Report, server: SwarmServer, agents: number): Promise<Growth> {
  const { rate, seconds, opens: count } = GROWTH;
  const rest = await atRest(report, server);
  report.progress(`${agents} hosts: ${rate} changes a second for ${seconds} s, then ${count} connections`);
  const changes = await server.ask<ChangesResult>({ do: "changes", rate, seconds });
  const opens = await server.ask<OpensResult>({ do: "opens", count });
  return {
    agents,
    changeMs: (1000 * (changes.cpuSeconds - rest * changes.seconds)) / (changes.changesPerSecond * changes.seconds),
    openMs: percentile(opens.openMs, 50),
    openCpuMs: (1000 * opens.cpuSeconds) / opens.openMs.length,
  };
}

/** Each size beside the smallest: what stays flat has a ratio of about 1. */
function tellGrowth(report: Report, growth: readonly Growth[]): void {
  const [least] = growth;
  if (least === undefined) return;
  const of = (what: string, value: (g: Growth) => number) => {
    for (const g of growth)
      report.add({ metric: `${what}, ${g.agents} hosts`, value: value(g), unit: "ms", baseline: value(least) });
  };
  of("CPU a change", (g) => g.changeMs);
  of("open a connection, p50", (g) => g.openMs);
  of("CPU to open and close one", (g) => g.openCpuMs);
}

function tell(report: Report, ours: Side, bare: Side, { agents, rate }: { agents: number; rate: number }): void {
  const cpuPercent = ({ changes }: Side) => (100 * changes.cpuSeconds) / changes.seconds;
  report.add({ metric: "agents linked", value: agents, unit: "agents", baseline: agents });
  report.add({
    metric: "memory an agent",
    value: ours.bytesPerAgent / 1024,
    unit: "KB",
    baseline: bare.bytesPerAgent / 1024,
    target: { of: "value", atMost: 30 },
  });
  report.add({
    metric: "changes made a second",
    value: ours.changes.changesPerSecond,
    unit: "1/s",
    baseline: bare.changes.changesPerSecond,
    target: { of: "value", atLeast: 0.98 * rate },
  });
  for (const p of [50, 99]) {
    report.add({
      metric: `push to ack, p${p}`,
      value: percentile(ours.changes.pushToAckMs, p),
      unit: "ms",
      baseline: percentile(bare.changes.pushToAckMs, p),
      ...(p === 99 ? { target: { of: "value", atMost: 250 } } : {}),
    });
    report.add({
      metric: `change asked for to ack stored, p${p}`,
      value: percentile(ours.changes.changeToAckMs, p),
      unit: "ms",
      baseline: percentile(bare.changes.changeToAckMs, p),
      ...(p === 99 ? { target: { of: "value", atMost: 250 } } : {}),
    });
  }
  report.add({
    metric: "CPU at rest, of one core",
    value: ours.restPercent,
    unit: "%",
    baseline: bare.restPercent,
    target: { of: "ratio", atMost: 2 },
  });
  report.add({
    metric: "CPU under changes, of one core",
    value: cpuPercent(ours),
    unit: "%",
    baseline: cpuPercent(bare),
    target: { of: "ratio", atMost: 2 },
  });
  report.add({
    metric: "CPU a change",
    value: (1000 * ours.changes.cpuSeconds) / (ours.changes.changesPerSecond * ours.changes.seconds),
    unit: "ms",
  });
  report.add({
    metric: "event-loop lag under changes, p99",
    value: ours.lagP99Ms,
    unit: "ms",
    baseline: bare.lagP99Ms,
  });
}
