import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Exec } from "../exec.ts";
import { type Flow, forgetFlow, forgetPort, listFlows } from "./conntrack.ts";
import { type Driver, ORDER, type Plan, type Step } from "./driver.ts";
import { localAddresses } from "./links.ts";
import { type FingerprintStore, forwarding, NftTable } from "./nft.ts";
import {
  elementText,
  isStale,
  RELAY_MAP,
  RELAY_TABLE,
  type RelayWants,
  readMap,
  relayRuleset,
  relayWants,
  type Target,
} from "./relay-plan.ts";

export interface RelaySeen {
  /** Null: no table of ours. */
  map: Map<number, Target> | null;
  /** The rules are those we loaded for these items. */
  rulesOurs: boolean;
  forwarding: boolean;
  staleFlows: Flow[];
}

export type RelayStep = Step &
  (
    | { kind: "replace"; wants: RelayWants }
    | { kind: "elements"; remove: number[]; add: Map<number, Target> }
    | { kind: "remove" | "forwarding" }
    | { kind: "flows"; flows: Flow[] }
  );

/** Above this many ports one listing of all flows is cheaper than one a port. */
const MANY_PORTS = 8;

/**
 * Relays in the kernel: one table, one map, one rule a range. A change swaps the mapping in one transaction and then
 * forgets the flows that still follow the old one. This order leaves no moment without a mapping, in which a client's
 * keepalive would make an untranslated flow; what one made earlier is found by {@link isStale} all the same.
 */
export class RelayNftDriver implements Driver<RelaySeen, RelayStep> {
  readonly name = "relay";
  readonly types = ["relay"] as const;
  readonly serves = (item: StateItem) => item.type === "relay" && item.driver === "nft";
  readonly #exec: Exec;
  readonly #table: NftTable;
  /**
   * Ports whose flows are not yet known to follow the mapping: all at start (a crash between a change and its clean-up
   * leaves them behind), then those just changed, until an audit finds none that is stale.
   */
  #doubtful: Set<number> | "all" = "all";

  readonly #ended: (flow: Flow) => void;

  /** @param ended told of each flow this driver ends, with its final counts */
  constructor(exec: Exec, store: FingerprintStore, ended: (flow: Flow) => void = () => {}) {
    this.#exec = exec;
    this.#ended = ended;
    this.#table = new NftTable(RELAY_TABLE, exec, store, (set) => set === RELAY_MAP);
  }

  async observe(items: readonly StateItem[]): Promise<RelaySeen> {
    const wants = relayWants(items);
    const listing = await this.#table.list();
    const any = wants.ranges.length + wants.singles.size > 0;
    return {
      map: listing && readMap(listing.elements.get(RELAY_MAP) ?? []),
      rulesOurs: listing !== null && this.#table.isOurs(relayRuleset(wants), listing),
      forwarding: any ? await forwarding.isOn(this.#exec) : true,
      staleFlows: listing || any ? await this.#audit(wants) : [],
    };
  }

  plan(seen: RelaySeen, items: readonly StateItem[]): Plan<RelayStep> {
    const wants = relayWants(items);
    const all = [...wants.ranges.map((r) => r.item), ...[...wants.singles.values()].map((s) => s.item)];
    const base = { cause: "differs" as const, order: ORDER.relay };
    const steps: RelayStep[] = [];
    if (all.length === 0) {
      if (seen.map) steps.push({ ...base, kind: "remove", items: [], what: "relay table without any relay" });
    } else if (!seen.map || !seen.rulesOurs) {
      const what = seen.map ? "relay rules differ" : "relay table is missing";
      steps.push({ ...base, kind: "replace", items: all, what, wants });
    } else {
      steps.push(...elementStep(seen.map, wants, base));
    }
    if (all.length > 0 && !seen.forwarding)
      steps.push({ ...base, kind: "forwarding", items: all, what: "IPv4 forwarding is off" });
    if (seen.staleFlows.length > 0) {
      const flows = seen.staleFlows;
      const ports = [...new Set(flows.map((f) => f.port))];
      const touched = [...wants.singles].filter(([port]) => ports.includes(port)).map(([, s]) => s.item);
      const ranges = wants.ranges.filter((r) => ports.some((p) => r.from <= p && p <= r.to)).map((r) => r.item);
      const what = `${flows.length} flows of port ${ports.slice(0, 5).join(", ")} follow an old mapping`;
      steps.push({ ...base, kind: "flows", items: [...touched, ...ranges], what, flows });
    }
    return { steps, refused: wants.refused };
  }

  async apply(step: RelayStep): Promise<void> {
    switch (step.kind) {
      case "forwarding":
        return forwarding.turnOn(this.#exec);
      case "remove":
        this.#doubt("all");
        await this.#table.remove();
        return this.#clean(relayWants([]));
      case "replace": {
        this.#doubt("all");
        const elements = [...step.wants.singles].map(([port, target]) => elementText(port, target));
        const text = elements.length > 0 ? `    elements = { ${elements.join(", ")} }\n` : "";
        await this.#table.replace(relayRuleset(step.wants), relayRuleset(step.wants, text));
        return this.#clean(step.wants);
      }
      case "elements": {
        const ports = [...new Set([...step.remove, ...step.add.keys()])];
        this.#doubt(ports);
        await this.#table.change(elementCommands(step));
        // Flows of exactly these ports; every other flow is left as it is.
        if (ports.length <= MANY_PORTS)
          for (const port of ports) (await forgetPort(this.#exec, port)).forEach(this.#ended);
        return;
      }
      case "flows":
        return this.#forget(step.flows);
    }
  }

  #doubt(ports: readonly number[] | "all"): void {
    if (ports === "all") this.#doubtful = "all";
    else if (this.#doubtful !== "all") this.#doubtful = new Set([...this.#doubtful, ...ports]);
  }

  /** Stale flows among the doubtful ports; none found ends the doubt. */
  async #audit(wants: RelayWants): Promise<Flow[]> {
    const doubtful = this.#doubtful;
    if (doubtful !== "all" && doubtful.size === 0) return [];
    const flows: Flow[] = [];
    if (doubtful === "all" || doubtful.size > MANY_PORTS) flows.push(...(await listFlows(this.#exec)));
    else for (const port of doubtful) flows.push(...(await listFlows(this.#exec, port)));
    const local = await localAddresses(this.#exec);
    const stale = flows.filter((f) => (doubtful === "all" || doubtful.has(f.port)) && isStale(wants, f, local));
    if (stale.length === 0 && this.#doubtful === doubtful) this.#doubtful = new Set();
    return stale;
  }

  async #clean(wants: RelayWants): Promise<void> {
    await this.#forget(await this.#audit(wants));
  }

  async #forget(flows: readonly Flow[]): Promise<void> {
    for (const flow of flows) (await forgetFlow(this.#exec, flow)).forEach(this.#ended);
  }
}

/** At most one step: all element changes go into one transaction. */
function elementStep(
  seen: ReadonlyMap<number, Target>,
  wants: RelayWants,
  base: Pick<Step, "cause" | "order">,
): RelayStep[] {
  const remove: number[] = [];
  const add = new Map<number, Target>();
  const items: string[] = [];
  for (const [port, held] of seen) {
    const want = wants.singles.get(port);
    if (!want || want.address !== held.address || want.port !== held.port) remove.push(port);
  }
  for (const [port, want] of wants.singles) {
    if (seen.has(port) && !remove.includes(port)) continue;
    add.set(port, want);
    items.push(want.item);
  }
  if (remove.length === 0 && add.size === 0) return [];
  const ports = [...new Set([...remove, ...add.keys()])].slice(0, 5).join(", ");
  const what = `relay map: ${remove.length} to remove, ${add.size} to add (port ${ports})`;
  return [{ ...base, kind: "elements", items, what, remove, add }];
}

function elementCommands(step: { remove: number[]; add: Map<number, Target> }): string {
  const name = `ip ${RELAY_TABLE} ${RELAY_MAP}`;
  const added = [...step.add].map(([port, target]) => elementText(port, target));
  return [
    step.remove.length > 0 ? `delete element ${name} { ${step.remove.join(", ")} }\n` : "",
    added.length > 0 ? `add element ${name} { ${added.join(", ")} }\n` : "",
  ].join("");
}
