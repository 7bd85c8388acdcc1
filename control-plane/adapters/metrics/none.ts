import type { Metrics } from "../../ports/index.ts";

/** For runtimes without a process to scrape, and for tests. */
export function noMetrics(): Metrics {
  return { count: () => {}, time: () => {}, render: async () => undefined };
}
