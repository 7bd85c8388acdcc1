import type { Report } from "./report.ts";
import { percentile } from "./statistics.ts";
import type { ChangesResult } from "./swarm-messages.ts";

/** What one side of the bench came to. */
export interface Side {
  bytesPerAgent: number;
  /** CPU at rest, heartbeats only, % of one core. */
  restPercent: number;
  /** The last is at the whole rate. */
  steps: Step[];
}

/** Changes at one rate. */
export interface Step {
  rate: number;
  changes: ChangesResult;
  lagP99Ms: number;
  /** CPU that playing the hosts took, everything that is not of the bench, and a hypervisor from this machine, % of one core. */
  hostsPercent: number;
  othersPercent: number;
  stolenPercent: number;
}

/** What single operations cost on a fleet of some size. */
export interface Growth {
  agents: number;
  /** CPU of a change above that of the fleet at rest, ms. */
  changeMs: number;
  /** To open a connection, waiting for no host, p50 ms; and CPU to open and close one, ms. */
  openMs: number;
  openCpuMs: number;
}

/** Each size beside the smallest: what stays flat has a ratio of about 1. */
export function tellGrowth(report: Report, growth: readonly Growth[]): void {
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

/** Both sides, rate by rate. */
export function tell(report: Report, ours: Side, bare: Side, agents: number): void {
  report.add({ metric: "agents linked", value: agents, unit: "agents", baseline: agents });
  report.add({
    metric: "memory an agent",
    value: ours.bytesPerAgent / 1024,
    unit: "KB",
    baseline: bare.bytesPerAgent / 1024,
    target: { of: "value", atMost: 30 },
  });
  report.add({
    metric: "CPU at rest, of one core",
    value: ours.restPercent,
    unit: "%",
    baseline: bare.restPercent,
    target: { of: "ratio", atMost: 2 },
  });
  for (const [i, step] of ours.steps.entries()) {
    const other = bare.steps[i];
    // The targets are for the whole rate.
    if (other !== undefined) tellStep(report, step, other, i === ours.steps.length - 1);
  }
}

function tellStep(report: Report, ours: Step, bare: Step, whole: boolean): void {
  const { rate } = ours;
  const target = (of: "value" | "ratio", atMost: number) => (whole ? { target: { of, atMost } as const } : {});
  const cpuPercent = ({ changes }: Step) => (100 * changes.cpuSeconds) / changes.seconds;
  report.add({
    metric: `changes made a second, of ${rate}`,
    value: ours.changes.changesPerSecond,
    unit: "1/s",
    baseline: bare.changes.changesPerSecond,
    ...(whole ? { target: { of: "value", atLeast: 0.98 * rate } } : {}),
  });
  for (const p of [50, 99]) {
    report.add({
      metric: `push to ack at ${rate}/s, p${p}`,
      value: percentile(ours.changes.pushToAckMs, p),
      unit: "ms",
      baseline: percentile(bare.changes.pushToAckMs, p),
      ...(p === 99 ? target("value", 250) : {}),
    });
    report.add({
      metric: `change asked for to ack stored at ${rate}/s, p${p}`,
      value: percentile(ours.changes.changeToAckMs, p),
      unit: "ms",
      baseline: percentile(bare.changes.changeToAckMs, p),
      ...(p === 99 ? target("value", 250) : {}),
    });
  }
  report.add({
    metric: `CPU at ${rate}/s, of one core`,
    value: cpuPercent(ours),
    unit: "%",
    baseline: cpuPercent(bare),
    ...target("ratio", 2),
  });
  const aChange = ({ changes }: Step) =>
    (1000 * changes.cpuSeconds) / Math.max(1, changes.changesPerSecond * changes.seconds);
  report.add({ metric: `CPU a change at ${rate}/s`, value: aChange(ours), unit: "ms", baseline: aChange(bare) });
  report.add({
    metric: `event-loop lag at ${rate}/s, p99`,
    value: ours.lagP99Ms,
    unit: "ms",
    baseline: bare.lagP99Ms,
  });
  report.add({
    metric: "meanwhile, CPU of playing the hosts",
    value: ours.hostsPercent,
    unit: "%",
    baseline: bare.hostsPercent,
  });
  report.add({
    metric: "meanwhile, CPU of all that is not the bench",
    value: ours.othersPercent,
    unit: "%",
    baseline: bare.othersPercent,
  });
  report.add({
    metric: "meanwhile, CPU that the machine was not given",
    value: ours.stolenPercent,
    unit: "%",
    baseline: bare.stolenPercent,
  });
}
