import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "../sqld.ts";
import type { Numbers } from "./arguments.ts";
import { makeFleet, touchFleet } from "./fleet-database.ts";
import type { Report } from "./report.ts";
import { buildSwarmServer, Fleet, needFiles } from "./swarm-fleet.ts";
import { machineSeconds } from "./swarm-load.ts";
import type { ServerCommand, ServerStats } from "./swarm-messages.ts";
import { SwarmProcess } from "./swarm-process.ts";

/** After so long the bench says how far it came. */
const LONGEST_MS = 90_000;

/** Kills the control plane under many agents, changes every host's state meanwhile, and counts until all hold the latest. */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { agents = 10_000 } = numbers;
  needFiles(agents);
  const dir = mkdtempSync(join(tmpdir(), "trunkline-bench-"));
  const env = { DATA_DIR: dir, PORT: `${await freePort()}` };
  const program = await buildSwarmServer();
  const start = () => SwarmProcess.start<ServerCommand>(program, env);
  const fleet = new Fleet(agents);
  let server: SwarmProcess<ServerCommand> | undefined;
  try {
    report.progress(`${agents} hosts with a line each, written into a database of the bench's own`);
    await makeFleet(dir, agents);
    server = await start();
    await fleet.connect(report, server.url, { bare: false });
    await sleep(2000);

    report.progress("kill -9; every host gets a new revision while it is away");
    const killedAt = performance.now();
    const machine = machineSeconds();
    await server.kill9();
    await touchFleet(dir);
    server = await start();
    const readyAt = performance.now();
    report.progress(`up again after ${((readyAt - killedAt) / 1000).toFixed(1)} s`);
    const held = await fleet.until(report, 2, LONGEST_MS);
    const now = machineSeconds();
    // Late comers, if there were any, would show as a second session.
    const stats = await server.ask<ServerStats>({ do: "stats" });
    await sleep(3000);
    const after = await server.ask<ServerStats>({ do: "stats" });
    const { sockets, held: holding } = await fleet.status(2);
    const seconds = (at: number | undefined) => (at === undefined ? Number.NaN : (at - killedAt) / 1000);
    report.add({ metric: "agents", value: agents, unit: "agents" });
    report.add({
      metric: "killed until all hold the latest state",
      value: seconds(held?.all),
      unit: "s",
      target: { of: "value", atMost: 30 },
    });
    report.add({ metric: "killed until half hold it", value: seconds(held?.half), unit: "s" });
    report.add({ metric: "killed until 99% hold it", value: seconds(held?.most), unit: "s" });
    report.add({ metric: "killed until the process was up again", value: seconds(readyAt), unit: "s" });
    report.add({ metric: "hosts without the latest state at the end", value: agents - holding, unit: "agents" });
    report.add({
      metric: "event-loop lag in the storm, p99",
      value: stats.lagP99Ms,
      unit: "ms",
      target: { of: "value", atMost: 200 },
    });
    report.add({ metric: "event-loop lag in the storm, most", value: stats.lagMaxMs, unit: "ms" });
    report.add({
      metric: "duplicate sessions",
      value: after.superseded + Math.abs(after.joined - agents) + Math.abs(sockets - agents),
      unit: "sessions",
      target: { of: "value", atMost: 0 },
    });
    report.add({ metric: "links opened an agent", value: after.opened / agents, unit: "links" });
    report.add({ metric: "CPU of the storm", value: stats.cpuSeconds, unit: "s" });
    report.add({ metric: "CPU of all processes meanwhile", value: now.busy - machine.busy, unit: "s" });
    report.add({
      metric: "CPU that the machine was not given meanwhile",
      value: now.stolen - machine.stolen,
      unit: "s",
    });
  } finally {
    await Promise.all([fleet.end(), server?.kill9()]);
    rmSync(dir, { recursive: true, force: true });
  }
}
