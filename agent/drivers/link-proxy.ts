import { canonicalJson } from "../../shared/canonical.ts";
import type { LinkProxyItem, StateItem } from "../../shared/protocol/desired-state.ts";
import type { LinkProxy } from "../link/proxy.ts";
import { type Driver, itemsOf, ORDER, type Plan, type Step } from "./driver.ts";

type ProxyStep = Step & { proxies: LinkProxyItem[] };

/** The pass-through lives in this process, so what it was told last and took is what there is. */
export class LinkProxyDriver implements Driver<string, ProxyStep> {
  readonly name = "link-proxy";
  readonly types = ["linkProxy"] as const;
  readonly #get: () => Promise<LinkProxy>;
  #configured = "[]";

  /** @param get loads the pass-through's code when a state first asks for one */
  constructor(get: () => Promise<LinkProxy>) {
    this.#get = get;
  }

  async observe(): Promise<string> {
    return this.#configured;
  }

  plan(seen: string, items: readonly StateItem[]): Plan<ProxyStep> {
    const proxies = itemsOf(items, "linkProxy");
    if (canonicalJson(proxies) === seen) return { steps: [], refused: [] };
    const what = `pass-through to the control plane: ${proxies.length} wanted`;
    const step = { items: proxies.map((p) => p.id), what, cause: "differs" as const, order: ORDER.relay, proxies };
    return { steps: [step], refused: [] };
  }

  async apply(step: ProxyStep): Promise<void> {
    // One that failed half-way is neither: it is tried again, also when what was there before is wanted back.
    this.#configured = "";
    await (await this.#get()).configure(step.proxies);
    this.#configured = canonicalJson(step.proxies);
  }
}
