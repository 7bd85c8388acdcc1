import { Counter, collectDefaultMetrics, Histogram, Registry } from "prom-client";
import type { MetricName, Metrics } from "../../ports/index.ts";

const COUNTERS: Partial<Record<MetricName, [help: string, labels: string[]]>> = {
  http_requests: ["HTTP requests by route and status", ["route", "status"]],
  jobs_run: ["Jobs run by kind and outcome", ["kind", "outcome"]],
  link_frames: ["Frames received from agents by type", ["t"]],
  link_frames_refused: ["Frames from agents that were refused", ["reason"]],
  path_rounds_lost: ["Rounds of path probes that could not be written", []],
  links_opened: ["Agent sessions that joined", ["role"]],
  links_closed: ["Agent sessions that ended, by reason", ["reason"]],
  ports_allocated: ["Forward ports handed out", []],
  drift_repaired: ["Hand-made changes that hosts repaired", ["role"]],
};
const HISTOGRAMS: Partial<Record<MetricName, [help: string, labels: string[]]>> = {
  http_request_ms: ["Time to answer, ms", ["route"]],
  job_ms: ["Time a job took, ms", ["kind"]],
  push_to_ack_ms: ["State sent to acknowledged, ms", ["role"]],
};
const BUCKETS_MS = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/** Prometheus metrics of this process. */
export function prometheusMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const counters = new Map(
    Object.entries(COUNTERS).map(([name, [help, labelNames]]) => [
      name,
      new Counter({ name: `trunkline_${name}_total`, help, labelNames, registers: [registry] }),
    ]),
  );
  const histograms = new Map(
    Object.entries(HISTOGRAMS).map(([name, [help, labelNames]]) => [
      name,
      new Histogram({ name: `trunkline_${name}`, help, labelNames, buckets: BUCKETS_MS, registers: [registry] }),
    ]),
  );
  return {
    count: (name, labels = {}, by = 1) => counters.get(name)?.inc(labels, by),
    time: (name, ms, labels = {}) => histograms.get(name)?.observe(labels, ms),
    render: async () => ({ contentType: registry.contentType, text: await registry.metrics() }),
  };
}
