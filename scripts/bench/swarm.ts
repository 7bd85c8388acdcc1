import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HEARTBEAT_MS } from "../../shared/protocol/frames.ts";
import type { Numbers } from "./arguments.ts";
import { makeFleet } from "./fleet-database.ts";
import type { Report } from "./report.ts";
import { percentile } from "./statistics.ts";
import { Fleet, needFiles, type SwarmServer } from "./swarm-fleet.ts";
import type { ChangesResult, ServerCommand, ServerStats } from "./swarm-messages.ts";
import { SwarmProcess } from "./swarm-process.ts";

interface Side {
  bytesPerAgent: number;
  /** CPU at rest, heartbeats only, % of one core. */
  restPercent: number;
  changes: ChangesResult;
  lagP99Ms: number;
}

/** Many agents on one control plane process, against a bare `ws` server with as many clients and messages. */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { agents = 10_000, rate = 1000, seconds = 20 } = numbers;
  needFiles(agents);
  const dir = mkdtempSync(join(tmpdir(), "trunkline-bench-"));
  try {
    report.progress(`bare ws server, ${agents} clients`);
    const bareServer = await SwarmProcess.start<ServerCommand>("swarm-bare.ts");
    const bare = await measure(report, bareServer, { agents, rate, seconds, bare: true });
    report.progress(`${agents} hosts with a line each, written into a database of the bench's own`);
    await makeFleet(dir, agents);
    report.progress("control plane");
    const server = await SwarmProcess.start<ServerCommand>("swarm-server.ts", { DATA_DIR: dir, PORT: "0" });
    const ours = await measure(report, server, { agents, rate, seconds, bare: false });
    tell(report, ours, bare, { agents, rate });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function measure(
  report: Report,
  server: SwarmServer,
  { agents, rate, seconds, bare }: { agents: number; rate: number; seconds: number; bare: boolean },
): Promise<Side> {
  const fleet = new Fleet(agents);
  try {
    const empty = await server.ask<ServerStats>({ do: "stats" });
    await fleet.connect(report, server.url, { bare });
    // What joining left behind goes, heartbeats settle.
    await sleep(3000);
    const full = await server.ask<ServerStats>({ do: "stats" });
    if (full.joined !== agents) throw new Error(`${full.joined} of ${agents} hosts are joined`);
    report.progress(`at rest for ${HEARTBEAT_MS / 1000} s: each side's heartbeats`);
    const before = (await server.ask<ServerStats>({ do: "stats" })).cpuSeconds;
    await sleep(HEARTBEAT_MS);
    const after = (await server.ask<ServerStats>({ do: "stats" })).cpuSeconds;
    report.progress(`${rate} changes a second for ${seconds} s`);
    await server.ask({ do: "resetLag" });
    const changes = await server.ask<ChangesResult>({ do: "changes", rate, seconds });
    const { lagP99Ms } = await server.ask<ServerStats>({ do: "stats" });
    return {
      bytesPerAgent: (full.rssBytes - empty.rssBytes) / agents,
      restPercent: (100 * (after - before)) / (HEARTBEAT_MS / 1000),
      changes,
      lagP99Ms,
    };
  } finally {
    await Promise.all([fleet.end(), server.kill9()]);
  }
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
