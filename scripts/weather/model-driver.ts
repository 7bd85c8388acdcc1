import type { Driver, Plan, Step } from "../../agent/drivers/driver.ts";
import { canonicalJson } from "../../shared/canonical.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";

/** What a host's kernel holds: each thing by its name, with what it is set to. */
export type Kernel = Map<string, string>;

type Thing = { key: string; value: string; item: string };

/** Everything these items put into a kernel at that moment (UTC ms of the host's own clock). */
export function thingsOf(items: readonly StateItem[], now: number): Thing[] {
  return items.flatMap((item) => thingsOfItem(item, now));
}

function thingsOfItem(item: StateItem, now: number): Thing[] {
  const thing = (key: string, value: unknown): Thing => ({ key, value: canonicalJson(value), item: item.id });
  switch (item.type) {
    case "relay":
      return [thing(`relay ${item.listen.from}-${item.listen.to}`, [item.to, item.driver])];
    case "uplink":
      return [thing("uplink", [item.address, item.port])];
    case "linkProxy":
      return [thing("link proxy", [item.address, item.port, item.allow])];
    case "linkWays":
      return [];
    case "whitelist":
      return [thing(`whitelist ${item.interface}`, [item.cidrs, item.domains, item.outInterface])];
    case "wireguard":
      return [
        thing(`tunnel ${item.interface}`, [item.listenPort, item.address, item.mtu]),
        ...item.peers
          .filter(({ notAfter }) => notAfter === null || notAfter > now)
          .map((peer) => thing(`peer ${item.interface} ${peer.publicKey}`, [peer.allowedIps, peer.keepalive])),
      ];
  }
}

export function kernelOf(items: readonly StateItem[], now: number): Kernel {
  return new Map(thingsOf(items, now).map(({ key, value }) => [key, value]));
}

export interface ModelWork {
  kernel: Kernel;
  /** Takes the time that a tool takes; never comes back when the process that asked has died. */
  work(): Promise<void>;
  /** Throws when the kernel refuses this change. */
  mayChange(key: string): void;
}

type ModelStep = Step & { key: string; value: string | null };

/** Keeps a model of a whole kernel as the items say, one step a thing, as the real drivers do theirs. */
export class ModelHostDriver implements Driver<Kernel, ModelStep> {
  readonly name = "model";
  readonly types = ["relay", "wireguard", "whitelist", "uplink"] as const;
  readonly #work: ModelWork;

  constructor(work: ModelWork) {
    this.#work = work;
  }

  concern(items: readonly StateItem[], now: number): Thing[] {
    return thingsOf(items, now);
  }

  async observe(): Promise<Kernel> {
    await this.#work.work();
    return new Map(this.#work.kernel);
  }

  plan(seen: Kernel, items: readonly StateItem[], now: number): Plan<ModelStep> {
    const wanted = thingsOf(items, now);
    const always = new Set(thingsOf(items, 0).map(({ key }) => key));
    const steps: ModelStep[] = [];
    for (const { key, value, item } of wanted)
      if (seen.get(key) !== value) steps.push({ items: [item], what: key, cause: "differs", order: 1, key, value });
    const keep = new Set(wanted.map(({ key }) => key));
    for (const key of seen.keys())
      if (!keep.has(key))
        steps.push({
          items: [],
          what: `${key} too many`,
          cause: always.has(key) ? "expired" : "differs",
          order: 2,
          key,
          value: null,
        });
    return { steps, refused: [] };
  }

  async apply({ key, value }: ModelStep): Promise<void> {
    await this.#work.work();
    this.#work.mayChange(key);
    if (value === null) this.#work.kernel.delete(key);
    else this.#work.kernel.set(key, value);
  }
}
