import { z } from "zod";

/** What is kept between runs of the agent. `boot` tells whether the kernel's counters are still the same ones. */
export const trafficSchema = z.object({
  boot: z.string(),
  /** Bytes so far, by item. */
  totals: z.record(z.string(), z.number()),
  /** Of each flow that was there when last looked: its item, and the bytes already in that item's total. */
  flows: z.record(z.string(), z.tuple([z.string(), z.number()])),
});
export type Traffic = z.infer<typeof trafficSchema>;

/** A counter of the kernel that only grows: a conntrack entry, or the processes of a socat relay. */
export interface Counted {
  /** The same as long as it is the same flow. */
  key: string;
  item: string;
  bytes: number;
  /** Counted by processes, whose key names no others. */
  process?: boolean;
}

/**
 * Bytes by relay item that only ever grow, over flows that begin and end and over restarts of the agent. A flow that
 * ends by itself was idle for longer than the time between two looks, so its last count was seen; one that we end is
 * given to {@link ended} as the kernel reports it.
 */
export class TrafficBook {
  readonly #save: (traffic: Traffic) => void;
  readonly #book: Traffic;
  /** Items named by the last look, and their final bytes are told once more when they have gone. */
  #named = new Set<string>();
  #changed = false;

  constructor(boot: string, kept: Traffic | null, save: (traffic: Traffic) => void) {
    this.#save = save;
    this.#book = { boot, totals: { ...kept?.totals }, flows: kept?.boot === boot ? { ...kept.flows } : {} };
    this.#named = new Set(Object.keys(this.#book.totals));
  }

  /** Counts of a flow that is about to end, or of one whose first bytes are nobody's. */
  ended(flow: Omit<Counted, "item"> & { item?: string }): void {
    const item = this.#book.flows[flow.key]?.[0] || flow.item;
    if (item !== undefined) this.#count({ ...flow, item });
    delete this.#book.flows[flow.key];
  }

  /** From here on: what the flow has now is not traffic. */
  begin(flow: Counted): void {
    this.#book.flows[flow.key] = [flow.item, flow.bytes];
  }

  /**
   * All flows there are now, and the items there are. Gives each item's bytes so far; an item that has gone since the
   * last look is named a last time.
   */
  look(flows: Iterable<Counted>, items: readonly string[]): Map<string, number> {
    const now: Traffic["flows"] = {};
    for (const flow of flows) {
      this.#count(flow);
      now[flow.key] = this.#book.flows[flow.key] ?? [flow.item, flow.bytes];
    }
    this.#book.flows = now;
    const gone = [...this.#named].filter((item) => !items.includes(item));
    const totals = new Map([...items, ...gone].map((item) => [item, this.#book.totals[item] ?? 0]));
    for (const item of gone) delete this.#book.totals[item];
    this.#named = new Set(items);
    if (this.#changed || gone.length > 0) this.#save(this.#book);
    this.#changed = false;
    return totals;
  }

  #count({ key, item, bytes, process }: Counted): void {
    const counted = this.#book.flows[key]?.[1] ?? 0;
    // Fewer than before: of a process it is a child between its end and its parent's account of it; of a conntrack
    // entry it is another flow with the addresses of one that ended.
    if (bytes < counted && process) return;
    this.#book.totals[item] = (this.#book.totals[item] ?? 0) + (bytes < counted ? bytes : bytes - counted);
    this.#book.flows[key] = [item, bytes];
    this.#changed ||= bytes !== counted;
  }
}
