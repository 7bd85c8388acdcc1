import type { ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DATA_PATH_NICE } from "../../agent/exec.ts";
import type { Lab, LabHost } from "./lab.ts";
import { poll } from "./poll.ts";
import { stopChild } from "./process.ts";

/** What wg-quick's own keys say, and the rest as `wg setconf` takes it. */
export interface ClientConfig {
  addresses: string[];
  dns: string[];
  mtu: number | undefined;
  /** The peer's endpoint: its address, which must be reached outside the tunnel. */
  endpoint: { address: string; port: number };
  allowedIps: string[];
  /** The file without Address, DNS, MTU. */
  setconf: string;
}

/** Reads a client configuration (wg-quick's form, one peer). Throws when the endpoint or the address is missing. */
export function parseClientConfig(text: string): ClientConfig {
  const own = new Map<string, string[]>();
  const kept: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    const [, key = "", value = ""] = /^\s*([A-Za-z]+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    const values = value.split(/\s*,\s*/).filter(Boolean);
    own.set(key.toLowerCase(), [...(own.get(key.toLowerCase()) ?? []), ...values]);
    if (!/^(address|dns|mtu)$/i.test(key)) kept.push(line);
  }
  const [endpoint = ""] = own.get("endpoint") ?? [];
  const [, address, port] = /^([0-9.]+):([0-9]+)$/.exec(endpoint) ?? [];
  if (address === undefined) throw new Error("the client configuration names no endpoint address");
  const addresses = own.get("address") ?? [];
  if (addresses.length === 0) throw new Error("the client configuration has no address");
  const [mtu] = own.get("mtu") ?? [];
  return {
    addresses,
    dns: own.get("dns") ?? [],
    mtu: mtu === undefined ? undefined : Number(mtu),
    endpoint: { address, port: Number(port) },
    allowedIps: own.get("allowedips") ?? [],
    setconf: kept.join("\n"),
  };
}

export interface ClientTunnel {
  interface: string;
  config: ClientConfig;
  /** UTC ms of the last handshake, or null. */
  lastHandshakeAt(): Promise<number | null>;
  down(): Promise<void>;
}

/** Does on a client what `wg-quick up` does, with wireguard-go: address, MTU, routes through the tunnel, resolver. */
export async function connectTunnel(lab: Lab, client: LabHost, conf: string, iface = "wg0"): Promise<ClientTunnel> {
  const config = parseClientConfig(conf);
  const { ns } = client;
  const logFile = lab.logFile(`wg-${client.name}`);
  // A customer's machine has cores of its own: what else runs on this one does not cost his packets.
  const argv = ["nice", "-n", String(DATA_PATH_NICE), "wireguard-go", "-f", iface];
  const process_ = ns.spawn(argv, { logFile, env: { LOG_LEVEL: "error" } });
  try {
    await untilControllable(process_, () => ns.exists(`/run/wireguard/${iface}.sock`));
    // By a file: node's pipes are sockets, and a socket can't be opened again as /dev/stdin.
    const file = join(ns.dir, `${iface}.conf`);
    writeFileSync(file, config.setconf, { mode: 0o600 });
    await ns.exec(["wg", "setconf", iface, file]);
    await ns.ip(
      ...config.addresses.map((address) => `addr add ${address} dev ${iface}`),
      `link set ${iface} mtu ${config.mtu ?? 1420} up`,
      `route replace ${config.endpoint.address}/32 via ${client.router}`,
      ...config.allowedIps.flatMap((net) => halves(net)).map((net) => `route replace ${net} dev ${iface}`),
    );
    ns.setResolver(config.dns);
  } catch (error) {
    await stopChild(process_, "SIGKILL");
    throw error;
  }
  return {
    interface: iface,
    config,
    lastHandshakeAt: async () => {
      const { stdout } = await ns.exec(["wg", "show", iface, "latest-handshakes"]);
      const seconds = Number(stdout.trim().split(/\s+/)[1] ?? 0);
      return seconds === 0 ? null : seconds * 1000;
    },
    down: async () => {
      await stopChild(process_); // the interface and its routes go with it
      ns.setResolver([]);
      await ns.exec(["ip", "route", "del", `${config.endpoint.address}/32`], { check: false });
    },
  };
}

/** The default route as two halves, so that the host's own stays in place beneath it. */
function halves(net: string): string[] {
  return net === "0.0.0.0/0" ? ["0.0.0.0/1", "128.0.0.0/1"] : [net];
}

async function untilControllable(child: ChildProcess, ready: () => boolean): Promise<void> {
  await poll(() => ready() || child.exitCode !== null, { what: "wireguard-go's control socket" });
  if (!ready()) throw new Error(`wireguard-go ended (${child.exitCode})`);
}
