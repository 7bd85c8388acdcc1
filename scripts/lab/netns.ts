import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ExecOptions, type ExecResult, exec, type SpawnOptions, spawn, stopChild } from "./process.ts";
import {
  clearDeadLabs,
  clearLab,
  deleteNamespace,
  noteCgroup,
  noteMount,
  noteNamespace,
  noteProcess,
  register,
} from "./registry.ts";

/** Traffic of one interface since it was made, as its host sees it. */
export interface Counters {
  rxBytes: number;
  txBytes: number;
  rxPackets: number;
  txPackets: number;
}

/** One end of a veth pair: where it is, its name there, and its address with prefix length, if any. */
export interface LinkEnd {
  ns: Namespace;
  name: string;
  address?: string;
}

export interface NamespaceOptions {
  /** net.ipv4.ip_forward. Default false, the kernel's own default. */
  forwarding?: boolean;
}

/**
 * A network namespace with its own mounts: `/run` is empty and its own (wireguard-go and others keep sockets there by
 * interface name, so two hosts with a wg0 would share one), `/etc/resolv.conf` is its own, and only its folder of the
 * lab is seen under `/run/trunkline-lab`.
 */
export class Namespace {
  readonly name: string;
  /** As `ip netns` knows it: `tl<lab>-<name>`. */
  readonly fullName: string;
  /** The host's folder, the same path inside and outside; survives a rebuild. */
  readonly dir: string;
  #holder: ChildProcess;
  readonly #children = new Set<ChildProcess>();

  private constructor(name: string, fullName: string, dir: string, holder: ChildProcess) {
    this.name = name;
    this.fullName = fullName;
    this.dir = dir;
    this.#holder = holder;
  }

  /** @internal Use {@link NetLab.namespace}. */
  static async create(lab: { id: string; dir: string }, name: string, options: NamespaceOptions): Promise<Namespace> {
    const fullName = `tl${lab.id}-${name}`;
    const dir = join(lab.dir, "hosts", name);
    mkdirSync(dir, { recursive: true });
    noteNamespace(lab.dir, fullName);
    await exec(["ip", "netns", "add", fullName]);
    const ns = new Namespace(name, fullName, dir, await startHolder(fullName));
    await ns.#mounts();
    await exec(["ip", "-n", fullName, "link", "set", "lo", "up"]);
    const forward = options.forwarding ? 1 : 0;
    await ns.sysctl({
      "net.ipv4.ip_forward": `${forward}`,
      "net.ipv4.conf.all.rp_filter": "0",
      "net.ipv4.conf.default.rp_filter": "0",
      // Nothing here is IPv6, and its neighbour discovery would show up in counters.
      "net.ipv6.conf.all.disable_ipv6": "1",
      "net.ipv6.conf.default.disable_ipv6": "1",
    });
    return ns;
  }

  /** Pid of the process that keeps the namespace's mounts; `/proc/<pid>/root` is the file system as seen inside. */
  get holderPid(): number {
    return this.#holder.pid ?? 0;
  }

  /** argv that runs `argv` in here, in the same process (so its pid is the command's own). */
  argv(argv: readonly string[], cwd = process.cwd()): string[] {
    // Entering the mount namespace loses the working directory, so it is named.
    return ["nsenter", "-t", `${this.holderPid}`, "-m", "-n", `--wdns=${cwd}`, "--", ...argv];
  }

  /** Runs a command in here to its end. Throws ExecError when it fails, unless `check: false`. */
  exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    return exec(this.argv(argv, options.cwd), options);
  }

  /** Starts a command in here; it is ended with the lab at the latest. `child.pid` is the command's own. */
  spawn(argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const child = spawn(this.argv(argv, options.cwd), options);
    this.#children.add(child);
    child.once("exit", () => this.#children.delete(child));
    return child;
  }

  /** Runs `ip` commands, one a line, in one process: `addr add 10.0.0.1/24 dev eth0`. */
  async ip(...commands: string[]): Promise<void> {
    await exec(["ip", "-n", this.fullName, "-batch", "-"], { input: `${commands.join("\n")}\n` });
  }

  /** Adds or replaces a route: `route("default via 198.51.100.1")`. */
  async route(spec: string): Promise<void> {
    await this.ip(`route replace ${spec}`);
  }

  async sysctl(values: Record<string, string>): Promise<void> {
    await this.exec(["sysctl", "-q", "-w", ...Object.entries(values).map(([k, v]) => `${k}=${v}`)]);
  }

  /** Byte and packet counters of an interface. */
  async counters(iface: string): Promise<Counters> {
    const { stdout } = await exec(["ip", "-n", this.fullName, "-j", "-s", "link", "show", "dev", iface]);
    const [link] = JSON.parse(stdout) as [{ stats64: Record<"rx" | "tx", { bytes: number; packets: number }> }];
    const { rx, tx } = link.stats64;
    return { rxBytes: rx.bytes, txBytes: tx.bytes, rxPackets: rx.packets, txPackets: tx.packets };
  }

  /** Name servers of this host, in place of the machine's. */
  setResolver(servers: readonly string[]): void {
    writeFileSync(join(this.dir, "resolv.conf"), servers.map((s) => `nameserver ${s}\n`).join(""));
  }

  /** True when the path exists as seen from inside. */
  exists(path: string): boolean {
    return existsSync(`/proc/${this.holderPid}/root${path}`);
  }

  /** Ends all that runs in here, whoever started it, and deletes the namespace. Its folder stays. */
  async destroy(): Promise<void> {
    await deleteNamespace(this.fullName);
    await Promise.all([...this.#children, this.#holder].map((child) => stopChild(child, "SIGKILL")));
  }

  async #mounts(): Promise<void> {
    this.setResolver([]);
    const inside = (argv: string[]) => exec(["nsenter", "-t", `${this.holderPid}`, "-m", "--", ...argv]);
    await inside(["mount", "--bind", this.dir, "/mnt"]); // a foothold: mounting over /run hides the folder
    await inside(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"]);
    mkdirSync(`/proc/${this.holderPid}/root${this.dir}`, { recursive: true });
    await inside(["mount", "--bind", "/mnt", this.dir]);
    await inside(["umount", "/mnt"]);
    if (existsSync("/etc/resolv.conf")) {
      await inside(["mount", "--bind", join(this.dir, "resolv.conf"), "/etc/resolv.conf"]);
    }
  }
}

/** A set of namespaces that stand and fall together, owned by this process. */
export class NetLab {
  readonly id: string;
  /** The lab's folder: registry, logs, hosts' folders. */
  readonly dir: string;
  readonly #namespaces = new Map<string, Namespace>();

  private constructor(id: string, dir: string) {
    this.id = id;
    this.dir = dir;
  }

  /** Clears labs whose owner died, then opens a new one. `purpose` is what `lab list` shows. */
  static async open(purpose: string): Promise<NetLab> {
    if (process.getuid?.() !== 0) throw new Error("the lab makes network namespaces: run it as root");
    await clearDeadLabs();
    const { id, dir } = register(purpose);
    return new NetLab(id, dir);
  }

  /** Makes a namespace: loopback up, no reverse-path filter, no IPv6. Names are unique within the lab. */
  async namespace(name: string, options: NamespaceOptions = {}): Promise<Namespace> {
    if (this.#namespaces.has(name)) throw new Error(`this lab already has a ${name}`);
    const ns = await Namespace.create(this, name, options);
    this.#namespaces.set(name, ns);
    return ns;
  }

  /** Links two namespaces by a veth pair, made inside them: the root namespace never sees it. Both ends come up. */
  async link(a: LinkEnd, b: LinkEnd): Promise<void> {
    const [nsA, nsB] = [a.ns.fullName, b.ns.fullName];
    await exec(["ip", "link", "add", a.name, "netns", nsA, "type", "veth", "peer", "name", b.name, "netns", nsB]);
    for (const end of [a, b]) {
      const address = end.address === undefined ? [] : [`addr add ${end.address} dev ${end.name}`];
      await end.ns.ip(...address, `link set ${end.name} up`);
    }
  }

  /** Notes a process outside the namespaces, so that it is ended should this process be killed. */
  noteProcess(pid: number): void {
    noteProcess(this.dir, pid);
  }

  /** Notes a mount or a control group of the machine's, so that it goes with the lab. Call it before making it. */
  note(kind: "mount" | "cgroup", path: string): void {
    (kind === "mount" ? noteMount : noteCgroup)(this.dir, path);
  }

  /** Forgets and deletes one namespace, so that another of its name can be made. */
  async remove(ns: Namespace): Promise<void> {
    this.#namespaces.delete(ns.name);
    await ns.destroy();
  }

  /** Ends everything and deletes the lab's folder. */
  async close(): Promise<void> {
    await Promise.all([...this.#namespaces.values()].map((ns) => ns.destroy()));
    this.#namespaces.clear();
    await clearLab(this.dir);
  }
}

/** A process that does nothing but be in the namespace. It answers once it is there, and ends with us. */
async function startHolder(fullName: string): Promise<ChildProcess> {
  const holder = spawn(["ip", "netns", "exec", fullName, "cat"], { stdin: "pipe" });
  holder.stdin?.on("error", () => {});
  holder.stdin?.write("\n");
  if (!holder.stdout) throw new Error("no pipe to the holder");
  const first = await Promise.race([once(holder.stdout, "data"), once(holder, "exit")]);
  if (holder.pid === undefined || typeof first[0] === "number") throw new Error(`can't enter namespace ${fullName}`);
  if (readlinkSync(`/proc/${holder.pid}/ns/net`) === readlinkSync("/proc/self/ns/net")) {
    throw new Error(`the holder of ${fullName} did not leave this namespace`);
  }
  // Neither the process nor its pipes keep the owner's event loop alive.
  holder.unref();
  for (const pipe of [holder.stdin, holder.stdout, holder.stderr]) (pipe as unknown as { unref?(): void })?.unref?.();
  return holder;
}
