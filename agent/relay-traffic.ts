import type { RelayItem, StateItem } from "../shared/protocol/desired-state.ts";
import type { Observation } from "../shared/protocol/frames.ts";
import { eachFlow, type Flow } from "./drivers/conntrack.ts";
import { itemsOf } from "./drivers/driver.ts";
import { RELAY_MARK } from "./drivers/relay-plan.ts";
import type { ListenerCounts } from "./drivers/relay-socat.ts";
import { portOf, serviceOf } from "./drivers/relay-socat-plan.ts";
import type { Services } from "./drivers/services.ts";
import type { Exec } from "./exec.ts";
import { childrenOf, ioOf, statOf } from "./proc.ts";
import type { Counted, TrafficBook } from "./traffic.ts";

/**
 * What each relay item carried. nftables relays are counted by conntrack, a flow at a time, both directions. socat's
 * processes are counted by the kernel's account of what they read and wrote, which for a relay by LISTEN and SENDTO is
 * the client's side, both directions: a listener's own account takes in its flows' when they end.
 */
export class RelayTraffic implements ListenerCounts {
  readonly #exec: Exec;
  readonly #services: Services;
  readonly #book: TrafficBook;
  /** As of the last look: whose port it is. */
  #itemOf = new Map<number, string>();

  constructor(exec: Exec, services: Services, book: TrafficBook) {
    this.#exec = exec;
    this.#services = services;
    this.#book = book;
  }

  async look(items: readonly StateItem[]): Promise<NonNullable<Observation["relays"]>> {
    const relays = itemsOf(items, "relay");
    this.#itemOf = portsOf(relays);
    const flows = new Map<string, number>(relays.map(({ id }) => [id, 0]));
    const counted: Counted[] = [];
    const add = (item: string | undefined, count: number, one: Omit<Counted, "item">) => {
      if (item === undefined) return;
      flows.set(item, (flows.get(item) ?? 0) + count);
      counted.push({ ...one, item });
    };
    if (relays.some((item) => item.driver === "nft"))
      await eachFlow(this.#exec, (flow) => {
        if ((flow.mark & RELAY_MARK) !== 0)
          add(this.#itemOf.get(flow.port), 1, { key: keyOf(flow), bytes: flow.bytes ?? 0 });
      });
    for (const { name, pid } of await this.#services.list(serviceOf("")))
      if (pid !== null) add(this.#itemOf.get(portOf(name)), childrenOf(pid).length, listener(pid));
    const totals = this.#book.look(
      counted,
      relays.map(({ id }) => id),
    );
    return [...totals].map(([item, bytes]) => ({ item, flows: flows.get(item) ?? 0, bytes }));
  }

  /** A flow that was just forgotten, with its final count. */
  flowEnded(flow: Flow): void {
    if ((flow.mark & RELAY_MARK) !== 0) this.#ended({ key: keyOf(flow), bytes: flow.bytes ?? 0 }, flow.port);
  }

  /** What loading the program read is nobody's traffic. */
  listenerBegins(port: number, pid: number): void {
    this.#book.begin({ ...listener(pid), item: this.#itemOf.get(port) ?? "" });
  }

  listenerEnds(port: number, pid: number): void {
    this.#ended(listener(pid), port);
  }

  #ended(one: Omit<Counted, "item">, port: number): void {
    const item = this.#itemOf.get(port);
    this.#book.ended(item === undefined ? one : { ...one, item });
  }
}

const keyOf = (flow: Flow) => `${flow.source}:${flow.sourcePort} ${flow.address}:${flow.port}`;

function listener(pid: number): Omit<Counted, "item"> {
  const bytes = [pid, ...childrenOf(pid)].reduce((sum, one) => sum + ioOf(one), 0);
  return { key: `socat ${pid} ${statOf(pid)?.startTime}`, bytes, process: true };
}

function portsOf(relays: readonly RelayItem[]): Map<number, string> {
  const ports = new Map<number, string>();
  for (const { id, listen } of relays) for (let p = listen.from; p <= listen.to; p++) ports.set(p, id);
  return ports;
}
