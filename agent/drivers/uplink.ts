import { canonicalJson } from "../../shared/canonical.ts";
import type { StateItem, UplinkItem } from "../../shared/protocol/desired-state.ts";
import type { UplinkParams } from "../../shared/protocol/tasks.ts";
import type { TaskRunner } from "../tasks/types.ts";
import { type Driver, itemsOf, ORDER, type Plan, type Step } from "./driver.ts";

/** The listener that takes in captures of other agents; see tasks/uplink.ts. */
export interface Uplink {
  configure(items: UplinkItem[]): Promise<void>;
  run: TaskRunner<UplinkParams>;
  close(): Promise<void>;
}

type UplinkStep = Step & { uplinks: UplinkItem[] };

/** The uplink lives in this process, so what it was told last and took is what there is. */
export class UplinkDriver implements Driver<string, UplinkStep> {
  readonly name = "uplink";
  readonly types = ["uplink"] as const;
  readonly #get: () => Promise<Uplink>;
  #configured = "[]";

  /** @param get loads the listener's code when a state first asks for one */
  constructor(get: () => Promise<Uplink>) {
    this.#get = get;
  }

  async observe(): Promise<string> {
    return this.#configured;
  }

  plan(seen: string, items: readonly StateItem[]): Plan<UplinkStep> {
    const uplinks = itemsOf(items, "uplink");
    if (canonicalJson(uplinks) === seen) return { steps: [], refused: [] };
    const what = `uplink listener: ${uplinks.length} wanted`;
    const step = { items: uplinks.map((u) => u.id), what, cause: "differs" as const, order: ORDER.relay, uplinks };
    return { steps: [step], refused: [] };
  }

  async apply(step: UplinkStep): Promise<void> {
    await (await this.#get()).configure(step.uplinks);
    this.#configured = canonicalJson(step.uplinks);
  }
}
