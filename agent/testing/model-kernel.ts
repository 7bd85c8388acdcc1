import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { type Driver, itemsOf, type Plan, type Step } from "../drivers/driver.ts";
import { livePeers } from "../drivers/wireguard-plan.ts";

/** A kernel that holds relays by port, and can be made to fail in the ways kernels do. */
export interface ModelKernel {
  held: Map<number, string>;
  /** Ports whose changes fail. */
  broken: Set<number>;
  /** Ports whose changes are taken and not made. */
  lies: Set<number>;
  /** Ports no driver of this host can do. */
  refused: Set<number>;
  /** Can't even be looked at. */
  blind: boolean;
  /** Called before a change is tried. */
  onTry: (port: number) => void;
  /** Called with the time of each plan. */
  onPlan: (now: number) => void;
  tries: Map<number, number>;
  writes: number;
  /** How often each driver looked, by name. */
  looks: Map<string, number>;
  mend(): void;
}

export function newKernel(): ModelKernel {
  return {
    held: new Map(),
    broken: new Set(),
    lies: new Set(),
    refused: new Set(),
    blind: false,
    onTry() {},
    onPlan() {},
    tries: new Map(),
    writes: 0,
    looks: new Map(),
    mend() {
      this.broken.clear();
      this.lies.clear();
      this.blind = false;
    },
  };
}

type ModelStep = Step & { port: number; value: string | null };

/** A driver over a {@link ModelKernel}: one step a port. */
export class ModelDriver implements Driver<ReadonlyMap<number, string>, ModelStep> {
  readonly types = ["relay"] as const;
  readonly name: string;
  readonly #kernel: ModelKernel;
  readonly #mine: (port: number) => boolean;

  /** @param mine which ports of the kernel are this driver's */
  constructor(name: string, kernel: ModelKernel, mine: (port: number) => boolean = () => true) {
    this.name = name;
    this.#kernel = kernel;
    this.#mine = mine;
  }

  serves(item: StateItem): boolean {
    return item.type === "relay" && this.#mine(item.listen.from);
  }

  /** Its own items; and of tunnels, which it has none of, who may use them now. */
  concern(items: readonly StateItem[], now: number): unknown {
    const live = itemsOf(items, "wireguard").map((item) => livePeers(item, now).length);
    return [itemsOf(items, "relay").filter((item) => this.serves(item)), live];
  }

  async observe(): Promise<ReadonlyMap<number, string>> {
    this.#kernel.looks.set(this.name, (this.#kernel.looks.get(this.name) ?? 0) + 1);
    if (this.#kernel.blind) throw new Error("can't look");
    return new Map([...this.#kernel.held].filter(([port]) => this.#mine(port)));
  }

  plan(seen: ReadonlyMap<number, string>, items: readonly StateItem[], now: number): Plan<ModelStep> {
    this.#kernel.onPlan(now);
    const base = { cause: "differs" as const, order: 1 };
    const steps: ModelStep[] = [];
    const refused: { item: string; error: string }[] = [];
    const wanted = new Map<number, string>();
    for (const item of itemsOf(items, "relay").filter((item) => this.serves(item)))
      if (this.#kernel.refused.has(item.listen.from)) refused.push({ item: item.id, error: "never: not on this host" });
      else wanted.set(item.listen.from, item.id);
    for (const [port, id] of wanted)
      if (seen.get(port) !== id) steps.push({ ...base, items: [id], what: `port ${port}`, port, value: id });
    for (const port of seen.keys())
      if (!wanted.has(port)) steps.push({ ...base, items: [], what: `port ${port} too many`, port, value: null });
    return { steps, refused };
  }

  async apply({ port, value }: ModelStep): Promise<void> {
    const kernel = this.#kernel;
    kernel.onTry(port);
    kernel.tries.set(port, (kernel.tries.get(port) ?? 0) + 1);
    if (kernel.broken.has(port)) throw new Error(`port ${port} is broken`);
    if (kernel.lies.has(port)) return;
    kernel.writes += 1;
    if (value === null) kernel.held.delete(port);
    else kernel.held.set(port, value);
  }
}
