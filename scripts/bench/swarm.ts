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
import { machineSeconds } from "./swarm-load.ts";
import type { ChangesResult, OpensResult, ServerCommand, ServerStats } from "./swarm-messages.ts";
import { SwarmProcess } from "./swarm-process.ts";
import { type Growth, type Side, type Step, tell, tellGrowth } from "./swarm-tell.ts";

/** The same for every size, and few enough that the smallest fleet is not asked twice at a time. */
const GROWTH = { rate: 200, seconds: 10, opens: 100 };

/**
 * Many agents on one control plane process, against a bare `ws` server with as many clients and messages. With `sizes` above 1
 * also what an operation costs on a tenth of the fleet, a hundredth and so on.
 */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { agents = 10_000, rate = 1000, seconds = 20, sizes = 1, steps = 1 } = numbers;
  needFiles(agents);
  const rates = Array.from({ length: steps }, (_, i) => Math.round((rate * (i + 1)) / steps));
  report.progress(`bare ws server, ${agents} clients`);
  const bareServer = await SwarmProcess.start<ServerCommand>("swarm-bare.ts");
  const bare = await linked(report, bareServer, { agents, bare: true }, (fleet) =>
    measure(report, bareServer, fleet, { agents, rates, seconds }),
  );
  const growth: Growth[] = [];
  for (let size = sizes - 1; size > 0; size--) {
    const fewer = Math.max(1, Math.round(agents / 10 ** size));
    growth.push(await onControlPlane(report, fewer, (server) => grow(report, server, fewer)));
  }
  const ours = await onControlPlane(report, agents, async (server, fleet) => {
    const side = await measure(report, server, fleet, { agents, rates, seconds });
    if (sizes > 1) growth.push(await grow(report, server, agents));
    return side;
  });
  tell(report, ours, bare, agents);
  tellGrowth(report, growth);
}

/** A control plane of its own with so many hosts linked. */
async function onControlPlane<T>(
  report: Report,
  agents: number,
  work: (server: SwarmServer, fleet: Fleet) => Promise<T>,
): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), "trunkline-bench-"));
  try {
    report.progress(`${agents} hosts with a line each, written into a database of the bench's own`);
    await makeFleet(dir, agents);
    report.progress("control plane");
    const server = await SwarmProcess.start<ServerCommand>(await buildSwarmServer(), { DATA_DIR: dir, PORT: "0" });
    return await linked(report, server, { agents, bare: false }, (fleet) => work(server, fleet));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Links the fleet to the server, does the work, and ends both. */
async function linked<T>(
  report: Report,
  server: SwarmServer,
  { agents, bare }: { agents: number; bare: boolean },
  work: (fleet: Fleet) => Promise<T>,
): Promise<T> {
  const fleet = new Fleet(agents);
  try {
    empty.set(server, (await server.ask<ServerStats>({ do: "stats" })).rssBytes);
    await fleet.connect(report, server.url, { bare });
    // What joining left behind goes, heartbeats settle.
    await sleep(3000);
    return await work(fleet);
  } finally {
    await Promise.all([fleet.end(), server.kill9()]);
  }
}

/** Resident memory of each server before the first host came. */
const empty = new WeakMap<SwarmServer, number>();

const WARM_UP_S = 5;

async function measure(
  report: Report,
  server: SwarmServer,
  fleet: Fleet,
  { agents, rates, seconds }: { agents: number; rates: readonly number[]; seconds: number },
): Promise<Side> {
  const full = await server.ask<ServerStats>({ do: "stats" });
  if (full.joined !== agents) throw new Error(`${full.joined} of ${agents} hosts are joined`);
  const bytesPerAgent = (full.rssBytes - (empty.get(server) ?? 0)) / agents;
  report.progress("warming up: a process that has just started compiles what one that runs has long compiled");
  await server.ask({ do: "changes", rate: rates.at(-1) ?? 0, seconds: WARM_UP_S });
  const restPercent = 100 * (await atRest(report, server));
  const steps: Step[] = [];
  for (const rate of rates) {
    report.progress(`${rate} changes a second for ${seconds} s`);
    await server.ask({ do: "resetLag" });
    const hosts = (await fleet.status(0)).cpuSeconds;
    const machine = machineSeconds();
    const changes = await server.ask<ChangesResult>({ do: "changes", rate, seconds });
    const hostSeconds = (await fleet.status(0)).cpuSeconds - hosts;
    const { busy, stolen } = machineSeconds();
    const { lagP99Ms } = await server.ask<ServerStats>({ do: "stats" });
    const share = (cpuSeconds: number) => Math.max(0, (100 * cpuSeconds) / changes.seconds);
    steps.push({
      rate,
      changes,
      lagP99Ms,
      hostsPercent: share(hostSeconds),
      othersPercent: share(busy - machine.busy - hostSeconds - changes.cpuSeconds),
      stolenPercent: share(stolen - machine.stolen),
    });
  }
  return { bytesPerAgent, restPercent, steps };
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
