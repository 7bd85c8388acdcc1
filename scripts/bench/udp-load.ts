import type { LabHost } from "../lab/lab.ts";

/** What arrived of a load. */
export interface LoadResult {
  /** Payload that arrived, Mbit/s. */
  goodputMbps: number;
  lostPct: number;
  /** What was really sent, Mbit/s: the sender shares the cores with the relays, and may not come up to the rate. */
  sentMbps: number;
}

/** 1400-byte datagrams by iperf3 at one rate. TCP to the same port has to reach the server too: iperf3 talks to it there. */
export async function udpLoad(
  client: LabHost,
  target: { address: string; port: number },
  rateMbps: number,
  seconds: number,
): Promise<LoadResult> {
  const where = ["-c", target.address, "-p", `${target.port}`];
  const load = ["-u", "-l", "1400", "-b", `${Math.round(rateMbps)}M`, "-t", `${seconds}`, "-w", "2M"];
  const { stdout } = await client.ns.exec(["iperf3", ...where, ...load, "-J"], { timeoutMs: seconds * 1000 + 20_000 });
  return readIperf(stdout);
}

/** Reads iperf3's JSON. Throws when it has no result. */
export function readIperf(json: string): LoadResult {
  const { end, error } = JSON.parse(json) as {
    end?: { sum?: { bits_per_second: number; lost_percent: number } };
    error?: string;
  };
  if (end?.sum === undefined) throw new Error(`iperf3: ${error ?? "no result"}`);
  const { bits_per_second: sent, lost_percent: lostPct } = end.sum;
  return { goodputMbps: (sent * (1 - lostPct / 100)) / 1e6, lostPct, sentMbps: sent / 1e6 };
}

const STEP = 1.15;

/**
 * The highest goodput at a loss of at most `maxLossPct`: rates grow by 15% until one loses too much twice in a row. Rates
 * begin well below `expected`, which an earlier search found.
 */
export async function bestGoodput(
  load: (rateMbps: number) => Promise<Omit<LoadResult, "sentMbps">>,
  maxLossPct: number,
  expectedMbps: number,
): Promise<number> {
  let best = Number.NaN;
  let rate = expectedMbps * 0.6;
  // Lower first, where even that is too much.
  for (let misses = 0; misses < 2 && rate > 1; ) {
    const result = await load(rate);
    if (result.lostPct <= maxLossPct) {
      // The sender may not have come up to the rate: asking for more then brings nothing.
      const stalled = result.goodputMbps < rate * 0.85;
      best = Number.isNaN(best) ? result.goodputMbps : Math.max(best, result.goodputMbps);
      if (stalled) break;
      misses = 0;
      rate *= STEP;
    } else if (Number.isNaN(best)) rate *= 0.6;
    else misses++;
  }
  return best;
}
