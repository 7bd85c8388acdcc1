import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Namespace, NetLab } from "../../../scripts/lab/netns.ts";
import { poll } from "../../../scripts/lab/poll.ts";
import type { WhitelistItem, WireguardItem } from "../../../shared/protocol/desired-state.ts";
import { createExec, type Exec } from "../../exec.ts";
import { makeKeys } from "../../keys.ts";
import { ResolverDriver } from "../resolver.ts";
import { DetachedServices } from "../services-detached.ts";
import { WhitelistDriver } from "../whitelist.ts";
import { WireguardDriver } from "../wireguard.ts";
import { memoryStore } from "./pass.ts";

export const INET = "203.0.113.1";
export const TUNNEL = "10.13.13.1";

/** An exit with a client's real tunnel on one side and an internet on the other, for lab tests of what may leave. */
export class ExitLab {
  readonly lab: NetLab;
  readonly exit: Namespace;
  readonly inet: Namespace;
  readonly client: Namespace;
  readonly exec: Exec;
  readonly #keys = makeKeys("exit");
  readonly #clientKeys = makeKeys("exit");
  readonly #store = memoryStore();
  drivers!: [WhitelistDriver, WireguardDriver, ResolverDriver];

  private constructor(lab: NetLab, hosts: [Namespace, Namespace, Namespace]) {
    this.lab = lab;
    [this.exit, this.inet, this.client] = hosts;
    this.exec = createExec({ prefix: this.exit.argv([]) });
  }

  static async open(purpose: string, mtu = 1392): Promise<ExitLab> {
    const lab = await NetLab.open(purpose);
    const [exit, inet, client] = [
      await lab.namespace("exit"),
      await lab.namespace("inet"),
      await lab.namespace("client"),
    ];
    const one = new ExitLab(lab, [exit, inet, client]);
    await lab.link(
      { ns: exit, name: "eth0", address: "203.0.113.2/24" },
      { ns: inet, name: "x", address: `${INET}/24` },
    );
    await lab.link(
      { ns: exit, name: "in0", address: "10.1.0.1/24" },
      { ns: client, name: "eth0", address: "10.1.0.2/24" },
    );
    await exit.route(`default via ${INET}`);
    writeFileSync(join(exit.dir, "wireguard.key"), `${one.#keys.wireguard?.privateKey}\n`, { mode: 0o600 });
    client.spawn(["wireguard-go", "-f", "wg0"]);
    await poll(() => client.exists("/run/wireguard/wg0.sock"), { what: "the client's tunnel" });
    const file = join(client.dir, "key");
    writeFileSync(file, `${one.#clientKeys.wireguard?.privateKey}\n`, { mode: 0o600 });
    await client.exec(["wg", "set", "wg0", "private-key", file]);
    await client.ip("addr add 10.13.13.2/32 dev wg0", `link set wg0 mtu ${mtu} up`, "route replace default dev wg0");
    const peer = ["peer", one.#keys.wireguard?.publicKey ?? "", "endpoint", "10.1.0.1:51820"];
    await client.exec(["wg", "set", "wg0", ...peer, "allowed-ips", "0.0.0.0/0"]);
    one.fresh();
    return one;
  }

  get services(): DetachedServices {
    return new DetachedServices(this.exec, join(this.exit.dir, "services"));
  }

  /** Drivers as a restarted agent has them. */
  fresh(): void {
    const { exec } = this;
    const publicKey = this.#keys.wireguard?.publicKey ?? null;
    const keyFile = join(this.exit.dir, "wireguard.key");
    this.drivers = [
      new WhitelistDriver(exec, this.#store),
      new WireguardDriver({ exec, store: this.#store, keyFile, publicKey, systemd: false }),
      new ResolverDriver(exec, this.services, join(this.exit.dir, "resolver")),
    ];
  }

  wireguard(more: Partial<WireguardItem> = {}): WireguardItem {
    const publicKey = this.#clientKeys.wireguard?.publicKey ?? "";
    const peers = [{ publicKey, allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter: null }];
    const base = { type: "wireguard" as const, id: "wg", interface: "tl0", listenPort: 51820 };
    return { ...base, address: `${TUNNEL}/24`, mtu: 1392, peers, ...more };
  }

  whitelist(cidrs: string[], domains: string[], more: Partial<WhitelistItem> = {}): WhitelistItem {
    return { type: "whitelist", id: "wl", interface: "tl0", cidrs, domains, outInterface: null, ...more };
  }

  close(): Promise<void> {
    return this.lab.close();
  }
}
