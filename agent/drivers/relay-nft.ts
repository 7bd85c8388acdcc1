import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Exec } from "../exec.ts";
import { type Flow, forgetFlow, listFlowsOf } from "./conntrack.ts";
import { type Driver, type Look, ORDER, type Plan, type Step } from "./driver.ts";
import { localAddresses } from "./links.ts";
import { type FingerprintStore, forwarding, NftTable } from "./nft.ts";
import {
  elementText,
  isOurs,
  RELAY_MAP,
  RELAY_TABLE,
  type RelayWants,
  readMap,
  relayRuleset,
  relaysOf,
  relayWants,
  strays,
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

/** By then a packet that was on its way through the table during a change is in its flow. */
const IN_FLIGHT_MS = 1000;
/** Flows forgotten side by side: a walk of the kernel's table each. */
const AT_ONCE = 4;

type Ports = ReadonlySet<number> | "all";
const NONE: Ports = new Set<number>();

/**
 * Relays in the kernel: one table, one map, one rule a range. A change swaps the mapping in one transaction; the look after
 * it finds the flows that still follow the old one, to be forgotten in a step of their own. This order leaves no moment
 * without a mapping, in which a client's keepalive would make an untranslated flow; what one made earlier is found by {@link strays} all the same.
 */
export class RelayNftDriver implements Driver<RelaySeen, RelayStep> {
  readonly name = "relay";
  readonly types = ["relay"] as const;
  readonly serves = (item: StateItem) => item.type === "relay" && item.driver === "nft";
  readonly concern = (items: readonly StateItem[]) => relaysOf(items, "nft");
  readonly #exec: Exec;
  readonly #table: NftTable;
  /**
   * Ports whose flows are not yet known to follow the mapping: all at start (a crash between a change and its clean-up
   * leaves them behind), then those just changed, until an audit finds none that is stale.
   */
  #unaudited: Ports = "all";
  /**
   * The same, until a later look at everything has audited them once more: a packet that was on its way through the table
   * during the change may enter its flow only after the first audit.
   */
  #doubtful: Ports = "all";
  /** Monotonic ms of the last change. */
  #changedAt = Number.NEGATIVE_INFINITY;

  readonly #ended: (flow: Flow) => void;
  readonly #now: () => number;

  /** @param ended told of each flow this driver ends, with its final counts @param now monotonic ms */
  constructor(
    exec: Exec,
    store: FingerprintStore,
    ended: (flow: Flow) => void = () => {},
    now: () => number = () => performance.now(),
  ) {
    this.#exec = exec;
    this.#ended = ended;
    this.#now = now;
    this.#table = new NftTable(RELAY_TABLE, exec, store, (set) => set === RELAY_MAP);
  }

  async observe(items: readonly StateItem[], look: Look = "all"): Promise<RelaySeen> {
    const wants = relayWants(items);
    const any = wants.ranges.length + wants.singles.size > 0;
    // Side by side: both are the kernel's work, and the flows of a change are the slower to be listed.
    const [listing, staleFlows] = await Promise.all([this.#table.list(), this.#audit(wants, look)]);
    return {
      map: listing && readMap(listing.elements.get(RELAY_MAP) ?? []),
      rulesOurs: listing !== null && this.#table.isOurs(relayRuleset(wants), listing),
      forwarding: any ? await forwarding.isOn(this.#exec) : true,
      staleFlows,
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
        return this.#table.remove();
      case "replace": {
        this.#doubt("all");
        const elements = [...step.wants.singles].map(([port, target]) => elementText(port, target));
        const text = elements.length > 0 ? `    elements = { ${elements.join(", ")} }\n` : "";
        return this.#table.replace(relayRuleset(step.wants), relayRuleset(step.wants, text));
      }
      case "elements":
        this.#doubt(new Set([...step.remove, ...step.add.keys()]));
        return this.#table.change(elementCommands(step));
      case "flows":
        return this.#forget(step.flows);
    }
  }

  #doubt(ports: Ports): void {
    this.#changedAt = this.#now();
    this.#unaudited = union(this.#unaudited, ports);
    this.#doubtful = union(this.#doubtful, ports);
  }

  /** Stale flows among the ports in question; none found ends the doubt. */
  async #audit(wants: RelayWants, look: Look): Promise<Flow[]> {
    const [unaudited, doubtful] = [this.#unaudited, this.#doubtful];
    // The look that verifies a change is too early to be the second one.
    const isLater = this.#now() - this.#changedAt >= IN_FLIGHT_MS;
    const ports = look === "all" ? doubtful : unaudited;
    if (ports !== "all" && ports.size === 0) return [];
    const flows = await listFlowsOf(this.#exec, ports);
    const suspects = flows.filter((f) => (ports === "all" || ports.has(f.port)) && strays(wants, f));
    const local = suspects.every(isOurs) ? new Set<string>() : await localAddresses(this.#exec);
    const stale = suspects.filter((f) => isOurs(f) || local.has(f.address));
    if (stale.length > 0) return stale;
    if (this.#unaudited === unaudited) this.#unaudited = NONE;
    if (look === "all" && isLater && this.#doubtful === doubtful) this.#doubtful = NONE;
    return [];
  }

  async #forget(flows: readonly Flow[]): Promise<void> {
    for (let i = 0; i < flows.length; i += AT_ONCE) {
      const some = flows.slice(i, i + AT_ONCE);
      for (const ended of await Promise.all(some.map((flow) => forgetFlow(this.#exec, flow))))
        ended.forEach(this.#ended);
    }
  }
}

function union(a: Ports, b: Ports): Ports {
  return a === "all" || b === "all" ? "all" : new Set([...a, ...b]);
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
