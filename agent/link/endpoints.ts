import type { LinkWay } from "../../shared/protocol/desired-state.ts";

/** One way to the control plane: directly, or through the pass-through of a forward host. The URL is the same: TLS goes end to end. */
export interface Endpoint {
  url: string;
  via?: LinkWay | undefined;
}

/** The ways to the control plane, taken in turn: the direct ones first, then those through other hosts. */
export class Endpoints {
  readonly #direct: readonly string[];
  #ways: readonly LinkWay[];
  #index = 0;

  constructor(direct: readonly string[], ways: readonly LinkWay[]) {
    this.#direct = direct;
    this.#ways = ways;
  }

  get current(): Endpoint {
    const [first = ""] = this.#direct;
    const via = this.#ways[this.#index - this.#direct.length];
    return via === undefined ? { url: this.#direct[this.#index] ?? first } : { url: first, via };
  }

  next(): void {
    this.#index = (this.#index + 1) % Math.max(1, this.#direct.length + this.#ways.length);
  }

  /** Back to the first direct one. */
  restart(): void {
    this.#index = 0;
  }

  /** The ways of the newest state. The one in use stays in use until the link ends. */
  setWays(ways: readonly LinkWay[]): void {
    const { via } = this.current;
    this.#ways = ways;
    if (via === undefined) return;
    const now = ways.findIndex((way) => way.address === via.address && way.port === via.port);
    this.#index = now < 0 ? 0 : this.#direct.length + now;
  }
}
