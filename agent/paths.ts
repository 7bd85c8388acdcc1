import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { PathProbe } from "../shared/protocol/frames.ts";
import type { Clock } from "./clock.ts";
import { itemsOf } from "./drivers/driver.ts";
import { type Log, sentence } from "./log.ts";
import type { PingMany } from "./ping-many.ts";
import { pingStatistics } from "./tasks/ping-statistics.ts";

/** Pings of one target, in a second. */
const COUNT = 5;
/** Most targets a round; where there are more they take turns: 32 short processes a minute. */
const MOST_TARGETS = 32;
const AT_ONCE = 4;

export interface ProbeDeps {
  clock: Clock;
  log: Log;
  items(): readonly StateItem[];
  /** The gateway of the default route, or undefined when there is none. */
  gateway(): Promise<string | undefined>;
  ping(targets: readonly string[], how: { count: number; atOnce: number; signal: AbortSignal }): Promise<PingMany>;
  everyMs: number;
  /** A round is over. */
  tell(probes: PathProbe[]): void;
}

/**
 * A light probe of this host's next hops: where its relays send to, and of an exit its own gateway. Nothing else is ever
 * probed: the targets come from the signed state and the host's routing table, never from a customer.
 */
export class Prober {
  readonly #deps: ProbeDeps;
  readonly #stop = new AbortController();
  /** The target probed last: the next round goes on behind it. */
  #last = "";

  constructor(deps: ProbeDeps) {
    this.#deps = deps;
  }

  async run(): Promise<void> {
    const { clock, log, everyMs, tell } = this.#deps;
    while (!this.#stop.signal.aborted) {
      await clock.wait(everyMs, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      try {
        const probes = await this.#round();
        if (probes.length > 0 && !this.#stop.signal.aborted) tell(probes);
      } catch (error) {
        if (!this.#stop.signal.aborted) log.warn("a round of probes failed", { why: sentence(error) });
      }
    }
  }

  stop(): void {
    this.#stop.abort();
  }

  async #round(): Promise<PathProbe[]> {
    const { clock, log, ping } = this.#deps;
    const targets = this.#turn(await this.#targets());
    if (targets.length === 0) return [];
    const { rttsMs, complaint } = await ping(targets, { count: COUNT, atOnce: AT_ONCE, signal: this.#stop.signal });
    // No route to it: as good as no answer, and the log says why.
    if (complaint !== "") log.warn("some probes could not be sent", { why: complaint });
    const at = clock.wall();
    return [...rttsMs]
      .map(([target, rtts]) => {
        const replies = rtts.map((rttMs, i) => ({ seq: i + 1, rttMs }));
        const { sent, received, minMs, p50Ms, p99Ms } = pingStatistics(COUNT, replies);
        return { target, at, sent, received, minMs, p50Ms, maxMs: p99Ms };
      })
      .sort((a, b) => (a.target < b.target ? -1 : 1));
  }

  async #targets(): Promise<string[]> {
    const items = this.#deps.items();
    const hops = new Set(itemsOf(items, "relay").map((relay) => relay.to.address));
    if (itemsOf(items, "whitelist").length > 0) {
      const gateway = await this.#deps.gateway();
      if (gateway !== undefined) hops.add(gateway);
    }
    return [...hops].sort();
  }

  /** Those whose turn it is. */
  #turn(targets: string[]): string[] {
    const from = targets.findIndex((target) => target > this.#last);
    const inTurn = from < 0 ? targets : [...targets.slice(from), ...targets.slice(0, from)];
    const now = inTurn.slice(0, MOST_TARGETS);
    this.#last = now.at(-1) ?? "";
    return now;
  }
}
