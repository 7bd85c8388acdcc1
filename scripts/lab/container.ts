import type { ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { containerRoot } from "./container-root.ts";
import type { Lab, LabHost } from "./lab.ts";
import { poll } from "./poll.ts";
import { type ExecOptions, type ExecResult, exec, killAll, spawn, startTimeOf, stopChild } from "./process.ts";
import { unmount } from "./registry.ts";

/** As a login on the container has it, with nothing of ours. */
const ENVIRONMENT = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/root",
  LC_ALL: "C",
};

/**
 * A machine with a real systemd on the network of a lab's host: systemd-nspawn on an overlay of one cached Debian root.
 * Its disk lives as long as the lab; its kernel's network is the host's namespace.
 */
export class Container {
  readonly host: LabHost;
  readonly #lab: Lab;
  readonly #root: string;
  #nspawn: ChildProcess | undefined;
  #init: { pid: number; startTime: string } | undefined;

  private constructor(lab: Lab, host: LabHost, root: string) {
    this.#lab = lab;
    this.host = host;
    this.#root = root;
  }

  /** Makes the disk and boots. The first ever call on a machine builds the cached root. */
  static async create(lab: Lab, host: LabHost): Promise<Container> {
    const lower = await containerRoot();
    const dir = join(lab.net.dir, "containers", host.name);
    const [upper, work, root] = ["upper", "work", "root"].map((name) => join(dir, name)) as [string, string, string];
    for (const path of [upper, work, root]) mkdirSync(path, { recursive: true });
    lab.net.note("mount", root);
    const layers = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
    await exec(["mount", "-t", "overlay", "overlay", "-o", layers, root]);
    const container = new Container(lab, host, root);
    lab.onClose(() => container.#dispose());
    await container.boot();
    return container;
  }

  /** Pid of the container's systemd as this machine sees it. */
  get pid(): number {
    if (this.#init === undefined) throw new Error(`the container of ${this.host.name} is off`);
    return this.#init.pid;
  }

  /** A file of the container, as this machine reads it. */
  path(inside: string): string {
    return join(this.#root, inside);
  }

  /** Starts systemd and waits until it has started everything that starts at boot. */
  async boot(): Promise<void> {
    const nspawn = [
      ...["/usr/bin/systemd-nspawn", "--quiet", "--boot", `--directory=${this.#root}`],
      ...[`--network-namespace-path=/run/netns/${this.host.ns.fullName}`, "--capability=CAP_NET_ADMIN,CAP_NET_RAW"],
      ...["--register=no", "--keep-unit", "--console=pipe", "--bind=/dev/net/tun", "--link-journal=no"],
      ...["--resolv-conf=off", "--timezone=off", `--hostname=${this.host.name}`],
    ];
    const helper = [process.execPath, join(import.meta.dirname, "in-cgroup.ts"), ...this.#cgroups()];
    this.#nspawn = spawn([...helper, "--", ...nspawn], {
      // The network's sysctls are the container's own, as on a machine.
      env: { SYSTEMD_NSPAWN_API_VFS_WRITABLE: "network" },
      logFile: this.#lab.logFile(`container-${this.host.name}`),
    });
    const { pid = 0 } = this.#nspawn;
    this.#lab.net.noteProcess(pid);
    this.#init = await poll(() => findInit(pid), { what: `the container of ${this.host.name} to start` });
    // It outlives a killed nspawn.
    this.#lab.net.noteProcess(this.#init.pid);
    await poll(
      async () => {
        // Before its bus answers it says nothing, or "offline".
        const { stdout } = await this.exec(["systemctl", "is-system-running"], { check: false });
        return /^(running|degraded)$/.test(stdout.trim());
      },
      { what: `the systemd of ${this.host.name} to be up`, timeoutMs: 60_000, everyMs: 25 },
    );
  }

  /** Shuts down as `reboot` does, gives the host an empty kernel at the same addresses, and boots from the same disk. */
  async reboot(): Promise<void> {
    await this.exec(["systemctl", "--no-block", "reboot"], { check: false });
    await poll(() => !alive(this.#nspawn), {
      what: `the container of ${this.host.name} to go down`,
      timeoutMs: 60_000,
    });
    await this.#afterEnd();
    await this.host.reboot();
    await this.boot();
  }

  /** Pulls the plug and puts it back: nothing is told to end, and only what is on the disk is left. */
  async powerCut(): Promise<void> {
    await this.powerOff();
    await this.host.reboot();
    await this.boot();
  }

  /** Pulls the plug. */
  async powerOff(): Promise<void> {
    if (this.#init) await killAll([this.#init]);
    if (this.#nspawn) await stopChild(this.#nspawn, "SIGKILL");
    await this.#afterEnd();
  }

  /** Runs a command as root in the container. Throws ExecError when it fails, unless `check: false`. */
  exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const enter = ["nsenter", "-t", `${this.pid}`, "-a", "--", ...argv];
    return exec(enter, { ...options, bareEnv: { ...ENVIRONMENT, ...options.env } });
  }

  /** One property of a unit. */
  async show(unit: string, property: string): Promise<string> {
    return (await this.exec(["systemctl", "show", "-P", property, unit])).stdout.trim();
  }

  /** What a unit said, the last lines. */
  async journal(unit: string, lines = 50): Promise<string> {
    const argv = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", `${lines}`, "-u", unit];
    return (await this.exec(argv, { check: false })).stdout;
  }

  /** A group for this container alone, in each hierarchy that its systemd may use. */
  #cgroups(): string[] {
    const top = "/sys/fs/cgroup";
    // v1 with systemd's own hierarchy and v2 beside it, or v2 alone.
    const hierarchies = [join(top, "systemd"), join(top, "unified"), top];
    return hierarchies
      .filter((hierarchy) => existsSync(join(hierarchy, "cgroup.procs")))
      .map((hierarchy) => {
        const path = join(hierarchy, `trunkline-lab-${this.#lab.id}-${this.host.name}`);
        this.#lab.net.note("cgroup", path);
        mkdirSync(path, { recursive: true });
        return path;
      });
  }

  async #afterEnd(): Promise<void> {
    this.#init = undefined;
    this.#nspawn = undefined;
  }

  async #dispose(): Promise<void> {
    await this.powerOff();
    await unmount(this.#root);
  }
}

function alive(child: ChildProcess | undefined): boolean {
  return child?.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

/** The process below nspawn that is number 1 of a pid namespace of its own and has become systemd. */
function findInit(nspawn: number): { pid: number; startTime: string } | undefined {
  if (startTimeOf(nspawn) === undefined) throw new Error("systemd-nspawn ended; its log says why");
  for (const pid of childrenOf(nspawn)) {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const startTime = startTimeOf(pid);
    if (/^NSpid:.*\t1$/m.test(status) && /^Name:\tsystemd$/m.test(status) && startTime) return { pid, startTime };
  }
  return undefined;
}

function childrenOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
}
