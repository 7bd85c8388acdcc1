import { existsSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { StateItem, WireguardItem } from "../../shared/protocol/desired-state.ts";
import { type Exec, ExecError } from "../exec.ts";
import type { TunnelCounts } from "../tunnel-counts.ts";
import { type Driver, itemsOf, type Look, type Plan } from "./driver.ts";
import { type Link, listLinks } from "./links.ts";
import { DATA_PATH_UNIT } from "./services-systemd.ts";
import { parseDump, type SeenWireguard } from "./wireguard-dump.ts";
import { livePeers, planWireguard, type WireguardSeen, type WireguardStep } from "./wireguard-plan.ts";

export interface WireguardDeps {
  exec: Exec;
  /** Names of interfaces this agent made, kept across restarts. */
  store: { interfaces(): string[]; saveInterfaces(names: readonly string[]): void };
  /** File with our private key, for `wg set … private-key FILE`; the key itself is in no argv. */
  keyFile: string;
  publicKey: string | null;
  /** Told of every look, and so of a peer's last count before it is removed. */
  counts?: Pick<TunnelCounts, "ticket" | "peers">;
  /** Where systemd runs, a userspace tunnel gets a unit of its own: in our control group it would die with us. */
  systemd?: boolean;
}

const READY_MS = 10_000;

/** WireGuard tunnels: in the kernel where it has them, by wireguard-go otherwise. Either outlives the agent. */
export class WireguardDriver implements Driver<WireguardSeen, WireguardStep> {
  readonly name = "wireguard";
  readonly types = ["wireguard"] as const;
  readonly #deps: WireguardDeps;
  readonly #systemd: boolean;
  /** The links as last read, while no step of ours changed one, and the state they were read for. */
  #read: { links: Map<string, Link>; shape: string } | undefined;

  constructor(deps: WireguardDeps) {
    this.#deps = deps;
    this.#systemd = deps.systemd ?? existsSync("/run/systemd/system");
  }

  /** A peer whose time has run out changes what is wanted, although the items stay the same. */
  concern(items: readonly StateItem[], now: number): unknown {
    return itemsOf(items, "wireguard").map((item) => [item, livePeers(item, now).length]);
  }

  async observe(items: readonly StateItem[], look: Look = "all"): Promise<WireguardSeen> {
    const { store, publicKey, counts } = this.#deps;
    const ours = store.interfaces();
    const ticket = counts?.ticket() ?? 0;
    const names = new Set([...ours, ...itemsOf(items, "wireguard").map((item) => item.interface)]);
    const [links, ...shown] = await Promise.all([
      names.size === 0 ? new Map<string, Link>() : this.#links(items, look),
      ...[...names].map(async (name) => [name, await this.show(name)] as const),
    ]);
    const tunnels = new Map(shown.filter(([name]) => links.has(name)));
    this.#count(ticket, items, tunnels);
    return { links, tunnels, ours, publicKey };
  }

  /** Another peer does not change the link: it is read again only where something of the link itself is new. */
  async #links(items: readonly StateItem[], look: Look): Promise<Map<string, Link>> {
    const shape = JSON.stringify(itemsOf(items, "wireguard").map((item) => [item.interface, item.address, item.mtu]));
    if (look === "changed" && this.#read?.shape === shape) return this.#read.links;
    const links = new Map((await listLinks(this.#deps.exec)).map((link) => [link.name, link]));
    this.#read = { links, shape };
    return links;
  }

  #count(ticket: number, items: readonly StateItem[], tunnels: ReadonlyMap<string, SeenWireguard | null>): void {
    const names = new Set([...tunnels.keys(), ...itemsOf(items, "wireguard").map((item) => item.interface)]);
    for (const name of names) {
      const seen = tunnels.get(name);
      // Nobody answers: not a word about what its peers have counted.
      if (seen !== null) this.#deps.counts?.peers(ticket, name, seen?.peers, items);
    }
  }

  /** One tunnel without its private key, or null when nobody answers for it. */
  async show(name: string): Promise<SeenWireguard | null> {
    const { code, stdout } = await this.#deps.exec.run(["wg", "show", name, "dump"], { okCodes: [0, 1] });
    return code === 0 ? parseDump(stdout) : null;
  }

  plan(seen: WireguardSeen, items: readonly StateItem[], now: number): Plan<WireguardStep> {
    return planWireguard(seen, items, now);
  }

  async apply(step: WireguardStep): Promise<void> {
    if (step.kind !== "set") this.#read = undefined;
    switch (step.kind) {
      case "create":
        return this.#create(step.item, step.peerArgs);
      case "set":
        return this.#set(step.interface, step.args);
      case "link":
        return this.#link(step.item, step.oldAddresses);
      case "remove":
        return this.#remove(step.interface);
    }
  }

  async #create(item: WireguardItem, peerArgs: string[]): Promise<void> {
    const { exec, store } = this.#deps;
    const name = item.interface;
    // Recorded first: a crash in between leaves a name of ours without an interface, not an interface nobody owns.
    store.saveInterfaces([...store.interfaces(), name]);
    const links = await listLinks(exec);
    if (links.some((link) => link.name === name)) await exec.run(["ip", "link", "del", "dev", name]);
    if (!(await this.#createInKernel(name))) await this.#createInUserspace(name);
    await this.#set(name, ["listen-port", String(item.listenPort), "private-key", ...peerArgs]);
    await this.#link(item, []);
  }

  async #createInKernel(name: string): Promise<boolean> {
    try {
      await this.#deps.exec.run(["ip", "link", "add", "dev", name, "type", "wireguard"]);
      return true;
    } catch (error) {
      // "Unknown device type" or "Operation not supported": a kernel without the module.
      if (error instanceof ExecError && /Unknown device type|not supported/.test(error.stderr)) return false;
      throw error;
    }
  }

  async #createInUserspace(name: string): Promise<void> {
    const { exec } = this.#deps;
    if (this.#systemd) {
      const unit = `trunkline-wireguard-${name}.service`;
      await exec.run(["systemctl", "reset-failed", unit], { okCodes: [0, 1, 5] });
      const properties = ["Restart=no", ...DATA_PATH_UNIT, "Description=Trunkline tunnel"];
      const set = properties.map((property) => `--property=${property}`);
      await exec.run([
        "systemd-run",
        "--quiet",
        "--collect",
        `--unit=${unit}`,
        ...set,
        "--",
        "wireguard-go",
        "-f",
        name,
      ]);
    } else {
      await exec.detach(["wireguard-go", "-f", name]);
    }
    const before = performance.now() + READY_MS;
    while (performance.now() < before) {
      const links = await listLinks(exec);
      if (links.some((link) => link.name === name) && (await this.show(name)) !== null) return;
      await sleep(25);
    }
    throw new Error(
      `wireguard-go made no tunnel ${name} within ${READY_MS} ms; is /dev/net/tun there, is the name free?`,
    );
  }

  /** One command, which the kernel takes as a whole: nobody else's session is touched. */
  async #set(name: string, args: string[]): Promise<void> {
    const argv = args.flatMap((arg) => (arg === "private-key" ? ["private-key", this.#deps.keyFile] : [arg]));
    await this.#deps.exec.run(["wg", "set", name, ...argv]);
  }

  async #link(item: WireguardItem, oldAddresses: readonly string[]): Promise<void> {
    const { exec } = this.#deps;
    const name = item.interface;
    await exec.run(["ip", "address", "replace", item.address, "dev", name]);
    for (const address of oldAddresses) await exec.run(["ip", "address", "del", address, "dev", name]);
    await exec.run(["ip", "link", "set", "dev", name, "mtu", String(item.mtu), "up"]);
  }

  async #remove(name: string): Promise<void> {
    const { exec, store } = this.#deps;
    await exec.run(["ip", "link", "del", "dev", name]);
    // wireguard-go ends when its device goes; its socket would stay and confuse `wg`.
    rmSync(`/var/run/wireguard/${name}.sock`, { force: true });
    store.saveInterfaces(store.interfaces().filter((other) => other !== name));
  }
}
