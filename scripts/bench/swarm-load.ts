import { readFileSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";

const RESOLUTION_MS = 10;

/** How late this process's timers fire. */
export function watchLag() {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  // The histogram holds whole waits; what is above the wait that was asked for is lateness.
  const late = (ns: number) => Math.max(0, ns / 1e6 - RESOLUTION_MS);
  return {
    reset: () => histogram.reset(),
    p99: () => late(histogram.percentile(99)),
    max: () => late(histogram.max),
  };
}

/** Memory after everything that can go has gone. */
export async function restingBytes(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    (globalThis as { gc?: () => void }).gc?.();
    await sleep(100);
  }
  return process.memoryUsage.rss();
}

export function cpuNow(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** CPU that everything on this machine took since it started, and that it was not given though it asked. */
export function machineSeconds(): { busy: number; stolen: number } {
  // The first line of /proc/stat, in hundredths of a second: user, nice, system, idle, iowait, irq, softirq, steal.
  const [, ...times] = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]?.split(/\s+/).map(Number) ?? [];
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = times;
  return { busy: (user + nice + system + irq + softirq) / 100, stolen: steal / 100 };
}

/** Calls `change` so many times a second, evenly, for so long; a late tick makes up for it. Answers how many it made. */
export async function atRate(rate: number, seconds: number, change: (n: number) => void): Promise<number> {
  const from = performance.now();
  let made = 0;
  while (made < rate * seconds) {
    const due = Math.min(rate * seconds, Math.floor(((performance.now() - from) / 1000) * rate));
    while (made < due) change(made++);
    await sleep(5);
  }
  return made;
}
