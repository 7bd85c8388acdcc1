import { setTimeout as sleep } from "node:timers/promises";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Exec } from "../exec.ts";
import { childrenOf, listensOnUdp, parseUdpListeners, socketsOf, statOf } from "../proc.ts";
import { type Driver, ORDER, type Plan, type Step } from "./driver.ts";
import { relaysOf } from "./relay-plan.ts";
import { DEFAULT_SOCAT, portOf, type SocatOptions, serviceOf, socatArgv, socatWants } from "./relay-socat-plan.ts";
import { type SeenService, type Services, sameArgv } from "./services.ts";

export interface SocatSeen {
  /** By port. One that runs has its port: socat ends when it can't bind. */
  relays: Map<number, SeenService>;
  /** Wanted ports that somebody else holds, and who. */
  taken: Map<number, string>;
}

export type SocatStep = Step & { port: number } & (
    | { kind: "start"; argv: string[]; replaces: boolean }
    | { kind: "stop" }
  );

/** Who counts what listeners carry. */
export interface ListenerCounts {
  listenerBegins(port: number, pid: number): void;
  listenerEnds(port: number, pid: number): void;
}
const UNCOUNTED: ListenerCounts = { listenerBegins() {}, listenerEnds() {} };

const LISTEN_MS = 5000;

/**
 * Relays by socat: one listener a port, which forks a process a flow. To change a relay is to end its listener with
 * all its flows and to start another: what a flow's process was told once it keeps. One port serves one customer,
 * because clients whose first datagrams come in one burst can get each other's answers.
 */
export class RelaySocatDriver implements Driver<SocatSeen, SocatStep> {
  readonly name = "relay-socat";
  readonly types = ["relay"] as const;
  readonly serves = (item: StateItem) => item.type === "relay" && item.driver === "socat";
  readonly concern = (items: readonly StateItem[]) => relaysOf(items, "socat");
  readonly #exec: Exec;
  readonly #services: Services;
  readonly #options: SocatOptions;
  readonly #traffic: ListenerCounts;

  /** @param traffic told of listeners that begin and end, while their counts can be read */
  constructor(exec: Exec, services: Services, traffic: ListenerCounts = UNCOUNTED, options = DEFAULT_SOCAT) {
    this.#exec = exec;
    this.#services = services;
    this.#traffic = traffic;
    this.#options = options;
  }

  async observe(items: readonly StateItem[]): Promise<SocatSeen> {
    const { wants } = socatWants(items);
    const services = await this.#services.list(serviceOf(""));
    const seen: SocatSeen = { relays: new Map(), taken: new Map() };
    if (wants.size === 0 && services.length === 0) return seen;
    const sockets = parseUdpListeners((await this.#exec.read("/proc/net/udp")) ?? "");
    const held = Map.groupBy(sockets, (socket) => socket.port);
    for (const service of services) {
      const port = portOf(service.name);
      const own = (service.pid === null ? undefined : socketsOf(service.pid)) ?? new Set<string>();
      seen.relays.set(port, service);
      if (held.get(port)?.every((s) => own.has(s.inode))) held.delete(port);
    }
    for (const port of wants.keys()) {
      if (!held.has(port)) continue;
      const holder = await this.#stranger(port, services);
      if (holder !== undefined) seen.taken.set(port, holder);
    }
    return seen;
  }

  plan(seen: SocatSeen, items: readonly StateItem[]): Plan<SocatStep> {
    const { wants, refused } = socatWants(items);
    const base = { cause: "differs" as const };
    const steps: SocatStep[] = [];
    for (const port of seen.relays.keys())
      if (!wants.has(port)) {
        const what = `a relay by socat of port ${port} is in no item`;
        steps.push({ ...base, kind: "stop", items: [], what, port, order: ORDER.relay - 1 });
      }
    for (const [port, { item, target }] of wants) {
      const holder = seen.taken.get(port);
      if (holder !== undefined) {
        const error = `port_taken: UDP port ${port} is held by ${holder}, which this agent did not start`;
        refused.push({ item, error });
      }
      const relay = seen.relays.get(port);
      const argv = socatArgv(port, target, this.#options);
      if (relay && sameArgv(relay.argv, argv)) continue;
      // Two that both say reuseaddr can hold one port, and the later gets the packets: never beside a stranger.
      if (holder !== undefined && (relay?.pid ?? null) === null) continue;
      const what = !relay
        ? `port ${port} has no relay by socat`
        : relay.pid === null
          ? `the relay by socat of port ${port} does not run`
          : `the relay by socat of port ${port} differs`;
      const order = ORDER.relay + 1;
      steps.push({ ...base, kind: "start", items: [item], what, port, argv, replaces: relay !== undefined, order });
    }
    return { steps, refused };
  }

  async apply(step: SocatStep): Promise<void> {
    if (step.kind === "stop" || step.replaces) await this.#stop(step.port);
    if (step.kind === "stop") return;
    if (await this.#listen(step)) return;
    await this.#freeOwn(step.port);
    if (await this.#listen(step)) return;
    throw new Error(`socat did not bind UDP port ${step.port}: does someone else hold it?`);
  }

  /** Starts a listener and waits until it has its port; false when it ended instead. */
  async #listen({ port, argv }: { port: number; argv: string[] }): Promise<boolean> {
    const name = serviceOf(port);
    const pid = await this.#services.start({ name, argv });
    const before = performance.now() + LISTEN_MS;
    while (!listensOnUdp(pid, port)) {
      if (!statOf(pid) || performance.now() > before) {
        await this.#services.stop(name);
        return false;
      }
      await sleep(2);
    }
    this.#traffic.listenerBegins(port, pid);
    return true;
  }

  async #stop(port: number): Promise<void> {
    const name = serviceOf(port);
    const { pid } = (await this.#services.list(name)).find((service) => service.name === name) ?? {};
    if (pid) this.#traffic.listenerEnds(port, pid);
    await this.#services.stop(name);
  }

  /**
   * Who holds the port, none of our processes: a flow's process is between fork and connect for a moment, and has a
   * port of its own, out of the range relays use, for its target.
   */
  async #stranger(port: number, services: readonly SeenService[]): Promise<string | undefined> {
    const groups = new Set(services.flatMap(({ pid }) => (pid === null ? [] : [statOf(pid)?.group])));
    const holders = (await this.#holders(port)).filter(({ pid }) => !groups.has(statOf(pid)?.group));
    return holders.map(({ name, pid }) => `${name} (pid ${pid})`).join(", ") || undefined;
  }

  /** A flow of another relay may have been given this port as its own: it ends, and its next packet makes another. */
  async #freeOwn(port: number): Promise<void> {
    const flows = new Set(
      (await this.#services.list(serviceOf(""))).flatMap(({ pid }) => (pid === null ? [] : childrenOf(pid))),
    );
    if (flows.size === 0) return;
    for (const { pid } of await this.#holders(port)) if (flows.has(pid)) process.kill(pid, "SIGKILL");
  }

  async #holders(port: number): Promise<{ name: string; pid: number }[]> {
    const { stdout } = await this.#exec.run(["ss", "-Hunap", `sport = :${port}`]);
    const lines = stdout.split("\n").filter((line) => /\s(\*|0\.0\.0\.0|\[::\]):\*/.test(line));
    return lines.flatMap((line) =>
      [...line.matchAll(/\("([^"]*)",pid=(\d+)/g)].map(([, name = "", pid]) => ({ name, pid: Number(pid) })),
    );
  }
}
