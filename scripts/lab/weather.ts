import type { Lab, LabHost } from "./lab.ts";

/** Bad weather on hosts' ways to the control plane, made in the router: the hosts themselves see nothing of it. */
export class Weather {
  readonly #lab: Lab;

  private constructor(lab: Lab) {
    this.#lab = lab;
  }

  static async over(lab: Lab): Promise<Weather> {
    const cp = lab.cp.address;
    const sides = (set: string) => [`ip saddr @${set} ip daddr ${cp}`, `ip daddr @${set} ip saddr ${cp}`];
    const rules = [
      ...sides("holes").map((match) => `${match} drop`),
      ...sides("cuts").map((match) => `${match} meta l4proto tcp reject with tcp reset`),
    ];
    await lab.inet.exec(["nft", "-f", "-"], {
      input: `table inet weather {
  set holes { type ipv4_addr; }
  set cuts { type ipv4_addr; }
  chain way {
    type filter hook forward priority filter; policy accept;
    ${rules.join("\n    ")}
  }
}
`,
    });
    return new Weather(lab);
  }

  /** Packets between this host and the control plane vanish; nobody is told. */
  async hole(host: LabHost): Promise<void> {
    await this.#lab.inet.exec(["nft", "add", "element", "inet", "weather", "holes", `{ ${host.address} }`]);
  }

  /** Connections between them are reset, and new ones refused. */
  async cut(host: LabHost): Promise<void> {
    await this.#lab.inet.exec(["nft", "add", "element", "inet", "weather", "cuts", `{ ${host.address} }`]);
  }

  /** Fair again, for all. */
  async clear(): Promise<void> {
    for (const set of ["holes", "cuts"]) await this.#lab.inet.exec(["nft", "flush", "set", "inet", "weather", set]);
  }
}
