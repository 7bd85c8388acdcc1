import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { isListedDomain } from "../../shared/protocol/values.ts";
import { writeDurable } from "../durable-file.ts";
import type { Exec } from "../exec.ts";
import { listensOnUdp, statOf } from "../proc.ts";
import { type Driver, itemsOf, ORDER, type Plan, type Step } from "./driver.ts";
import { ResolverBook } from "./resolver-book.ts";
import * as plan from "./resolver-plan.ts";
import { addAddresses, type NamedAddress, readAddresses, removeAddresses } from "./resolver-set.ts";
import { type SeenService, type Services, sameArgv } from "./services.ts";
import { EXIT_TABLE, namesSet, RESOLVER_PORT } from "./whitelist-plan.ts";

interface SeenTunnel {
  service: SeenService | undefined;
  /** What the resolver was last told to know. */
  servers: string;
  /** Null: there is no set, since the whitelist's table is not there. */
  held: NamedAddress[] | null;
}
export interface ResolverSeen {
  hostServers: string[];
  tunnels: Map<string, SeenTunnel>;
}
export type ResolverStep = Step & { tunnel: string } & (
    | { kind: "start" | "names"; want: plan.ResolverWant }
    | { kind: "stop" }
    | { kind: "revoke"; addresses: string[] }
    | { kind: "renew"; remove: string[]; add: string[] }
  );

/** Twenty thousand names take it 5 s. */
const START_MS = 30_000;
const DOUBT_MS = 1000;

/**
 * The exit's own resolver, one a tunnel: a dnsmasq that knows listed names only and puts each answer's addresses into
 * the tunnel's set before it answers. This driver runs it, tells it the names, and takes out of the set what no listed
 * name stands for any more.
 */
export class ResolverDriver implements Driver<ResolverSeen, ResolverStep> {
  readonly name = "resolver";
  readonly types = ["whitelist"] as const;
  readonly serves = (item: StateItem) => item.type === "whitelist" && item.domains.length > 0;
  readonly concern = (items: readonly StateItem[]) => [
    itemsOf(items, "whitelist"),
    itemsOf(items, "wireguard").map(({ interface: tunnel, address }) => [tunnel, address]),
  ];
  readonly #exec: Exec;
  readonly #services: Services;
  readonly #dir: string;
  readonly #now: () => number;
  readonly #books = new Map<string, ResolverBook>();
  /** Addresses of no known name, and since when: the resolver may be about to write its line. */
  readonly #suspects = new Map<string, Map<string, number>>();

  /** @param dir where the resolvers' files are, a folder of the state directory @param now monotonic ms */
  constructor(exec: Exec, services: Services, dir: string, now: () => number = () => performance.now()) {
    this.#exec = exec;
    this.#services = services;
    this.#dir = dir;
    this.#now = now;
  }

  /** For observation: addresses held and names refused, by tunnel. */
  async count(tunnel: string): Promise<{ addresses: number; deniedNames: number }> {
    const book = this.#book(tunnel);
    book.read(this.#now());
    return { addresses: (await this.#held(tunnel))?.length ?? 0, deniedNames: book.denied };
  }

  async observe(items: readonly StateItem[]): Promise<ResolverSeen> {
    const services = await this.#services.list(plan.serviceOf(""));
    const named = items.flatMap((item) => (item.type === "whitelist" && this.serves(item) ? [item.interface] : []));
    const seen: ResolverSeen = { hostServers: [], tunnels: new Map() };
    if (named.length > 0) seen.hostServers = plan.nameserversOf((await this.#exec.read("/etc/resolv.conf")) ?? "");
    for (const tunnel of new Set([...named, ...services.map(({ name }) => name.slice(plan.serviceOf("").length))])) {
      // The set first: what is in it by now is in the log by the time that is read.
      const held = await this.#held(tunnel);
      this.#book(tunnel).read(this.#now());
      const service = services.find(({ name }) => name === plan.serviceOf(tunnel));
      seen.tunnels.set(tunnel, { service, servers: readOr(join(plan.dirOf(this.#dir, tunnel), "servers")), held });
    }
    return seen;
  }

  plan(seen: ResolverSeen, items: readonly StateItem[]): Plan<ResolverStep> {
    const { wants, refused } = plan.resolverWants(items, this.#dir, seen.hostServers);
    const steps: ResolverStep[] = [];
    for (const [tunnel, { service }] of seen.tunnels)
      if (service && !wants.has(tunnel)) {
        const what = `the resolver of ${tunnel} is in no item`;
        steps.push({ kind: "stop", tunnel, items: [], what, cause: "differs", order: ORDER.unguard });
      }
    for (const want of wants.values()) {
      const { service, servers, held } = seen.tunnels.get(want.tunnel) ?? {
        service: undefined,
        servers: "",
        held: null,
      };
      const base = { tunnel: want.tunnel, items: [want.item], cause: "differs" as const, order: ORDER.resolver };
      if (!service || !sameArgv(service.argv, want.argv)) {
        const what = `the resolver of ${want.tunnel} ${service?.pid ? "differs" : "does not run"}`;
        steps.push({ ...base, kind: "start", what, want });
      } else if (servers !== want.servers) {
        steps.push({ ...base, kind: "names", what: `names the resolver of ${want.tunnel} knows`, want });
      }
      if (held) steps.push(...this.#addressSteps(want, held));
    }
    return { steps, refused };
  }

  /** What of the set no listed name stands for, and what was answered lately and must not go before it is used. */
  #addressSteps(want: plan.ResolverWant, held: NamedAddress[]): ResolverStep[] {
    const { tunnel, listed } = want;
    const book = this.#book(tunnel);
    const since = this.#now() - plan.MAX_TTL * 1000;
    const suspected = this.#suspects.get(tunnel) ?? new Map<string, number>();
    const suspects = new Map<string, number>();
    const revoke: string[] = [];
    for (const { address } of held) {
      const names = [...book.namesOf(address)];
      const first = suspected.get(address) ?? this.#now();
      if (names.length === 0) suspects.set(address, first);
      if (names.length === 0 && this.#now() - first < DOUBT_MS) continue;
      if (!names.some((name) => isListedDomain(listed, name))) revoke.push(address);
    }
    this.#suspects.set(tunnel, suspects);
    const expiry = new Map(held.map(({ address, expiresS }) => [address, expiresS]));
    book.keepOnly(new Set(expiry.keys()), since);
    const due = book.answeredSince(since).filter((address) => {
      const isListed = [...book.namesOf(address)].some((name) => isListedDomain(listed, name));
      return isListed && (expiry.get(address) ?? 0) < 2 * plan.MAX_TTL;
    });
    const base = { tunnel, items: [want.item], order: ORDER.resolver + 1 };
    const steps: ResolverStep[] = [];
    if (revoke.length > 0) {
      const what = `${revoke.length} addresses open to ${tunnel} that no listed name stands for`;
      steps.push({ ...base, kind: "revoke", what, cause: "differs", addresses: revoke });
    }
    if (due.length > 0) {
      const remove = due.filter((address) => expiry.has(address));
      const what = `${due.length} addresses of ${tunnel} to renew`;
      steps.push({ ...base, kind: "renew", what, cause: "routine", remove, add: due });
    }
    return steps;
  }

  async apply(step: ResolverStep): Promise<void> {
    const set = namesSet(step.tunnel);
    switch (step.kind) {
      case "stop":
        await this.#services.stop(plan.serviceOf(step.tunnel));
        this.#books.delete(step.tunnel);
        return rmSync(plan.dirOf(this.#dir, step.tunnel), { recursive: true, force: true });
      case "start":
        return this.#start(step.want);
      case "names": {
        writeDurable(step.want.serversFile, step.want.servers);
        const name = plan.serviceOf(step.tunnel);
        const { pid } = (await this.#services.list(name)).find((service) => service.name === name) ?? {};
        if (pid) process.kill(pid, "SIGHUP");
        return;
      }
      case "revoke":
        return this.#nft(removeAddresses(set, step.addresses));
      case "renew":
        return this.#nft(removeAddresses(set, step.remove) + addAddresses(set, step.add));
    }
  }

  async #start(want: plan.ResolverWant): Promise<void> {
    mkdirSync(want.dir, { recursive: true, mode: 0o700 });
    await this.#services.stop(plan.serviceOf(want.tunnel));
    for (const file of readdirSync(want.dir))
      if (/^dnsmasq-.*\.conf$/.test(file)) rmSync(join(want.dir, file), { force: true });
    writeDurable(want.serversFile, want.servers);
    writeDurable(want.configFile, want.config);
    const spec = { name: plan.serviceOf(want.tunnel), argv: want.argv, via: plan.CONFINED };
    const pid = await this.#services.start(spec);
    const before = performance.now() + START_MS;
    while (!listensOnUdp(pid, RESOLVER_PORT)) {
      if (!statOf(pid) || performance.now() > before)
        throw new Error(`dnsmasq does not listen on ${want.tunnel}; see ${plan.logFileOf(want.dir)}`);
      await sleep(5);
    }
  }

  async #nft(commands: string): Promise<void> {
    await this.#exec.run(["nft", "-f", "-"], { stdin: commands });
  }

  async #held(tunnel: string): Promise<NamedAddress[] | null> {
    const argv = ["nft", "-j", "list", "set", "ip", EXIT_TABLE, namesSet(tunnel)];
    const { code, stdout } = await this.#exec.run(argv, { okCodes: [0, 1] });
    if (code !== 0) return null;
    const entries = (JSON.parse(stdout) as { nftables: { set?: { elem?: unknown[] } }[] }).nftables;
    return readAddresses(entries.flatMap(({ set }) => set?.elem ?? []));
  }

  #book(tunnel: string): ResolverBook {
    const dir = plan.dirOf(this.#dir, tunnel);
    const book =
      this.#books.get(tunnel) ?? new ResolverBook(plan.logFileOf(dir), plan.bookFileOf(dir), namesSet(tunnel));
    this.#books.set(tunnel, book);
    return book;
  }
}

const readOr = (path: string) => (existsSync(path) ? readFileSync(path, "utf8") : "");
