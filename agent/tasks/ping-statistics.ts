import type { PingResult } from "../../shared/protocol/tasks.ts";

/** An answer: which request (from 1), and how long it took in ms. In the order the answers came. */
export interface PingReply {
  seq: number;
  rttMs: number;
}

/**
 * What a ping came to. A request whose answer came late counts as answered; a second answer to one request is ignored.
 *
 * @param sent how many requests were sent, numbered 1 to `sent`
 * @param replies in the order they arrived
 */
export function pingStatistics(sent: number, replies: readonly PingReply[]): PingResult {
  const answered = new Set<number>();
  const rtts: number[] = [];
  for (const { seq, rttMs } of replies) {
    if (seq < 1 || seq > sent || answered.has(seq)) continue;
    answered.add(seq);
    rtts.push(rttMs);
  }
  const sorted = [...rtts].sort((a, b) => a - b);
  const received = sorted.length;
  return {
    sent,
    received,
    lossPct: sent === 0 ? 0 : round(((sent - received) / sent) * 100),
    minMs: sorted[0] ?? null,
    meanMs: received === 0 ? null : round(sorted.reduce((a, b) => a + b, 0) / received),
    p50Ms: percentile(sorted, 50),
    p95Ms: percentile(sorted, 95),
    p99Ms: percentile(sorted, 99),
    jitterMs: jitter(rtts),
    longestLossRun: longestLossRun(sent, answered),
  };
}

/** Nearest rank: the smallest value that at least `p` per cent of all are not above. Always a value that was measured. */
function percentile(sorted: readonly number[], p: number): number | null {
  return sorted[Math.max(0, Math.ceil((p * sorted.length) / 100) - 1)] ?? null;
}

/**
 * Interarrival jitter of RFC 3550, section 6.4.1: J += (|D| − J) / 16 over packets in order of arrival. D is the
 * difference of two transit times; here of two round trips, which is what one host can measure. Null for fewer than two.
 */
function jitter(rtts: readonly number[]): number | null {
  if (rtts.length < 2) return null;
  let j = 0;
  for (const [i, rtt] of rtts.entries()) {
    const before = rtts[i - 1];
    if (before !== undefined) j += (Math.abs(rtt - before) - j) / 16;
  }
  return round(j);
}

function longestLossRun(sent: number, answered: ReadonlySet<number>): number {
  let run = 0;
  let longest = 0;
  for (let seq = 1; seq <= sent; seq++) {
    run = answered.has(seq) ? 0 : run + 1;
    longest = Math.max(longest, run);
  }
  return longest;
}

/** To a microsecond, which is what ping measures; keeps sums of floats out of the console. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
