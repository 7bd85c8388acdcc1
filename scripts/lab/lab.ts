import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LabHost } from "./host.ts";
import { type Namespace, NetLab } from "./netns.ts";
import { poll } from "./poll.ts";
import { type HostKind, planHosts, type Shape, WEB_LISTED, WEB_UNLISTED } from "./topology.ts";

export { LabHost } from "./host.ts";
export * from "./topology.ts";

export interface LabOptions extends Partial<Shape> {
  /** Shown by `lab list`. */
  purpose?: string;
  /** At the end, copy logs and hosts' folders to `/tmp/trunkline-lab-<id>`. */
  keep?: boolean;
}

/** The repository's root, where programs are started. */
export const ROOT = join(import.meta.dirname, "../..");

/**
 * A small internet: `inet` routes between all hosts and holds two sites, `udpn` is the cloud's private network that
 * only forwards and exits are on. Every process's output is in `<dir>/logs`.
 */
export class Lab {
  readonly net: NetLab;
  readonly inet: Namespace;
  readonly udpn: Namespace;
  readonly hosts: readonly LabHost[];
  readonly #keep: boolean;
  readonly #closers: (() => Promise<void>)[] = [];

  constructor(net: NetLab, inet: Namespace, udpn: Namespace, hosts: LabHost[], keep: boolean) {
    this.net = net;
    this.inet = inet;
    this.udpn = udpn;
    this.hosts = hosts;
    this.#keep = keep;
  }

  get id(): string {
    return this.net.id;
  }
  get clients(): LabHost[] {
    return this.#ofKind("client");
  }
  get boardings(): LabHost[] {
    return this.#ofKind("boarding");
  }
  get forwards(): LabHost[] {
    return this.#ofKind("forward");
  }
  get exits(): LabHost[] {
    return this.#ofKind("exit");
  }
  /** The control plane's host. */
  get cp(): LabHost {
    return this.host("cp");
  }

  /** A host by its name: `exit1`. Throws when there is none. */
  host(name: string): LabHost {
    const host = this.hosts.find((h) => h.name === name);
    if (!host) throw new Error(`this lab has no ${name}`);
    return host;
  }

  /** File that takes a process's output. */
  logFile(name: string): string {
    const dir = join(this.net.dir, "logs");
    mkdirSync(dir, { recursive: true });
    return join(dir, `${name}.log`);
  }

  /** The last lines of every log, for a test that failed. */
  logs(bytesEach = 4000): string {
    const dir = join(this.net.dir, "logs");
    if (!existsSync(dir)) return "";
    return readdirSync(dir)
      .map((name) => `--- ${name}\n${tail(join(dir, name), bytesEach)}`)
      .join("\n");
  }

  /** Runs `body`; when it fails, its error carries every process's last words. */
  async explain<T>(body: () => Promise<T>): Promise<T> {
    try {
      return await body();
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : error}\n${this.logs()}`, { cause: error });
    }
  }

  /** Registers what must end before the namespaces go. */
  onClose(closer: () => Promise<void>): void {
    this.#closers.push(closer);
  }

  /** Takes the lab down. Safe to call twice. */
  async close(): Promise<void> {
    for (const closer of this.#closers.splice(0).reverse()) await closer();
    if (this.#keep && existsSync(this.net.dir)) {
      const copy = join(tmpdir(), `trunkline-lab-${this.id}`);
      const plain = (path: string) => statSync(path).isFile() || statSync(path).isDirectory();
      cpSync(this.net.dir, copy, { recursive: true, filter: plain });
    }
    await this.net.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #ofKind(kind: HostKind): LabHost[] {
    return this.hosts.filter((h) => h.kind === kind);
  }
}

/** Builds a lab: by default one host of each kind and two clients. Clears dead labs first; needs root. */
export async function createLab(options: LabOptions = {}): Promise<Lab> {
  const { clients = 2, boardings = 1, forwards = 1, exits = 1 } = options;
  const plans = planHosts({ clients, boardings, forwards, exits });
  const net = await NetLab.open(options.purpose ?? process.argv.slice(1, 3).join(" "));
  try {
    const [inet, udpn] = await Promise.all([net.namespace("inet", { forwarding: true }), net.namespace("udpn")]);
    await udpn.ip("link add br0 type bridge", "link set br0 up");
    await inet.ip(`addr add ${WEB_LISTED}/32 dev lo`, `addr add ${WEB_UNLISTED}/32 dev lo`);
    const hosts = plans.map((plan) => new LabHost(plan, net, inet, udpn));
    const lab = new Lab(net, inet, udpn, hosts, options.keep ?? false);
    await allDone([...hosts.map((host) => host.boot()), startSites(lab)]);
    return lab;
  } catch (error) {
    await net.close();
    throw error;
  }
}

/** Waits for all, then throws the first failure: taking down a lab that is still being built would leave parts behind. */
async function allDone(work: readonly Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(work)).find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

async function startSites(lab: Lab): Promise<void> {
  const web = join(import.meta.dirname, "web.ts");
  const listen = `${WEB_LISTED},${WEB_UNLISTED}`;
  const child = lab.inet.spawn([process.execPath, web, "--listen", listen], { logFile: lab.logFile("web") });
  await poll(
    async () => {
      if (child.exitCode !== null) throw new Error(lab.logs());
      return (await lab.inet.exec(["ss", "-Hltn", "sport = :80"])).stdout.split("\n").length > 2;
    },
    { what: "the lab's sites to listen", everyMs: 20 },
  );
}

/** The last `bytes` of a file. */
export function tail(file: string, bytes: number): string {
  const size = statSync(file).size;
  if (size <= bytes) return readFileSync(file, "utf8");
  const buffer = Buffer.alloc(bytes);
  const fd = openSync(file, "r");
  readSync(fd, buffer, 0, bytes, size - bytes);
  closeSync(fd);
  return `…${buffer.toString()}`;
}
