import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Namespace, NetLab } from "./netns.ts";
import { exec } from "./process.ts";
import { type HostKind, type HostPlan, PRIVATE_INTERFACE, PUBLIC_INTERFACE } from "./topology.ts";

/** A machine of the lab: a namespace that can be rebuilt, at addresses that stay. */
export class LabHost {
  readonly name: string;
  readonly kind: HostKind;
  readonly address: string;
  readonly router: string;
  readonly privateAddress: string | undefined;
  readonly #net: NetLab;
  readonly #inet: Namespace;
  readonly #udpn: Namespace;
  readonly #extra = new Set<string>();
  #ns: Namespace | undefined;

  constructor(plan: HostPlan, net: NetLab, inet: Namespace, udpn: Namespace) {
    this.name = plan.name;
    this.kind = plan.kind;
    this.address = plan.address;
    this.router = plan.router;
    this.privateAddress = plan.privateAddress;
    this.#net = net;
    this.#inet = inet;
    this.#udpn = udpn;
  }

  get ns(): Namespace {
    if (!this.#ns) throw new Error(`${this.name} is switched off`);
    return this.#ns;
  }

  /** The host's own folder: all that survives {@link reboot}. */
  get dir(): string {
    return this.ns.dir;
  }

  /** Makes the namespace and its links. */
  async boot(): Promise<void> {
    // Forwarding stays off, as on a fresh machine: the agent turns it on, and a lab that did would hide its failing to.
    const ns = await this.#net.namespace(this.name);
    this.#ns = ns;
    await this.#giveBootId(ns);
    await this.#net.link(
      { ns: this.#inet, name: this.name, address: `${this.router}/30` },
      { ns, name: PUBLIC_INTERFACE, address: `${this.address}/30` },
    );
    await ns.route(`default via ${this.router}`);
    if (this.privateAddress !== undefined) {
      const address = `${this.privateAddress}/24`;
      await this.#net.link({ ns: this.#udpn, name: this.name }, { ns, name: PRIVATE_INTERFACE, address });
      await this.#udpn.ip(`link set ${this.name} master br0`);
    }
    for (const address of this.#extra) await this.#route(address);
  }

  /** Pulls the plug: everything that runs in it ends, the kernel's state is gone, the folder stays. */
  async powerOff(): Promise<void> {
    const ns = this.ns;
    this.#ns = undefined;
    await this.#net.remove(ns);
    // The peers vanish with the namespace, but later: a new boot would meet its own old links.
    for (const end of [this.#inet, ...(this.privateAddress === undefined ? [] : [this.#udpn])]) {
      await exec(["ip", "-n", end.fullName, "link", "del", this.name], { check: false });
    }
  }

  /** Power off and boot: same addresses, another boot id, an empty kernel. Whoever ran an agent starts it again. */
  async reboot(): Promise<void> {
    await this.powerOff();
    await this.boot();
  }

  /** Gives the host one more public address, as a cloud binds an EIP (use 203.0.113.192 and up). */
  async addAddress(address: string): Promise<void> {
    this.#extra.add(address);
    await this.#route(address);
  }

  /** Takes an address of {@link addAddress} away again. */
  async removeAddress(address: string): Promise<void> {
    this.#extra.delete(address);
    await this.#inet.ip(`route del ${address}/32 dev ${this.name}`);
    await this.ns.ip(`addr del ${address}/32 dev ${PUBLIC_INTERFACE}`);
  }

  /** Cuts the host off from the internet (or mends it). Nothing is refused: packets just vanish. */
  async setPublicLink(up: boolean): Promise<void> {
    // Done on the router's side, so that the host's own routes stay as they are.
    await this.#inet.ip(`link set ${this.name} ${up ? "up" : "down"}`);
    if (up) for (const address of this.#extra) await this.#inet.route(`${address}/32 dev ${this.name}`);
  }

  async #route(address: string): Promise<void> {
    await this.ns.ip(`addr replace ${address}/32 dev ${PUBLIC_INTERFACE}`);
    await this.#inet.route(`${address}/32 dev ${this.name}`);
  }

  /** The kernel's boot id is one for the whole machine; a rebuilt host must have a new one. */
  async #giveBootId(ns: Namespace): Promise<void> {
    const file = join(ns.dir, "boot_id");
    writeFileSync(file, `${randomUUID()}\n`);
    await ns.exec(["mount", "--bind", file, "/proc/sys/kernel/random/boot_id"]);
  }
}
