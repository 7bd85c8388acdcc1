import { readFileSync } from "node:fs";
import { loadavg, totalmem } from "node:os";
import { canonicalJson } from "../shared/canonical.ts";
import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { Observation } from "../shared/protocol/frames.ts";
import { rangesOf } from "./drivers/cidr.ts";
import { itemsOf } from "./drivers/driver.ts";
import { readSetting } from "./drivers/nft.ts";
import type { ResolverDriver } from "./drivers/resolver.ts";
import { deniedName, EXIT_TABLE } from "./drivers/whitelist-plan.ts";
import { parseDump } from "./drivers/wireguard-dump.ts";
import type { Exec } from "./exec.ts";
import { type Log, sentence } from "./log.ts";
import type { RelayTraffic } from "./relay-traffic.ts";
import type { TunnelCounts } from "./tunnel-counts.ts";

/** How often the host is looked at. */
export const OBSERVE_MS = 15_000;

/** Keeps back what a session was already told. */
export class ChangedOnly {
  #told = new Map<string, string>();

  /** A new session knows nothing. */
  reset(): void {
    this.#told.clear();
  }

  /** The members that differ from what was last given. */
  filter(values: Observation): Observation {
    const changed: Record<string, unknown> = {};
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined) continue;
      const text = canonicalJson(value);
      if (this.#told.get(name) === text) continue;
      this.#told.set(name, text);
      changed[name] = value;
    }
    return changed as Observation;
  }
}

export interface HostEyes {
  exec: Exec;
  log: Log;
  traffic: RelayTraffic;
  counts: TunnelCounts;
  resolver?: ResolverDriver;
}

/** What the host sees now, for the items it has. A part that can't be read is left out and logged. */
export async function observeHost(eyes: HostEyes, items: readonly StateItem[]): Promise<Observation> {
  const { exec, log, traffic, counts, resolver } = eyes;
  const [wireguard, relays, whitelist, conntrack, udp] = await Promise.all([
    part(log, "wireguard", () => seeTunnels(exec, items, counts)),
    part(log, "relays", () => traffic.look(items)),
    part(log, "whitelist", () => seeDenied(exec, items, resolver, counts)),
    part(log, "conntrack", () => seeConntrack(exec)),
    part(log, "udp", () => seeUdp(exec)),
  ]);
  const load1 = Math.round((loadavg()[0] ?? 0) * 10) / 10;
  const values: Observation = { load1, memoryUsedBytes: memoryUsed(), ...counts.told() };
  counts.save();
  if (wireguard && wireguard.length > 0) values.wireguard = wireguard;
  if (relays && relays.length > 0) values.relays = relays;
  if (whitelist && whitelist.length > 0) values.whitelist = whitelist;
  if (conntrack) values.conntrack = conntrack;
  if (udp) values.udp = udp;
  return values;
}

async function part<T>(log: Log, name: string, see: () => Promise<T>): Promise<T | undefined> {
  try {
    return await see();
  } catch (error) {
    log.warn("an observation failed", { part: name, why: sentence(error) });
    return undefined;
  }
}

async function seeTunnels(exec: Exec, items: readonly StateItem[], counts: TunnelCounts) {
  const seen: NonNullable<Observation["wireguard"]> = [];
  for (const { interface: name } of itemsOf(items, "wireguard")) {
    const ticket = counts.ticket();
    const { code, stdout } = await exec.run(["wg", "show", name, "dump"], { okCodes: [0, 1] });
    if (code !== 0) continue;
    const dump = parseDump(stdout).peers;
    counts.peers(ticket, name, dump, items);
    const peers = dump.map(({ publicKey, endpoint, lastHandshakeAt, rxBytes, txBytes }) => {
      return { publicKey, endpoint, lastHandshakeAt, rxBytes, txBytes };
    });
    seen.push({ interface: name, peers });
  }
  return seen;
}

async function seeDenied(
  exec: Exec,
  items: readonly StateItem[],
  resolver: ResolverDriver | undefined,
  counts: TunnelCounts,
) {
  const whitelists = itemsOf(items, "whitelist");
  if (whitelists.length === 0) return [];
  const { code, stdout } = await exec.run(["nft", "-j", "list", "counters", "table", "ip", EXIT_TABLE], {
    okCodes: [0, 1],
  });
  if (code !== 0) return [];
  const entries = (JSON.parse(stdout) as { nftables: { counter?: { name: string; packets: number } }[] }).nftables;
  const denied = new Map(entries.flatMap(({ counter }) => (counter ? [[counter.name, counter.packets] as const] : [])));
  const seen: NonNullable<Observation["whitelist"]> = [];
  for (const item of whitelists) {
    const names = resolver?.serves(item) ? await resolver.count(item.interface) : undefined;
    const deniedPackets = denied.get(deniedName(item.interface)) ?? 0;
    counts.denied(item.interface, deniedPackets, names?.deniedNames);
    seen.push({ item: item.id, deniedPackets, entries: rangesOf(item.cidrs).length, ...names });
  }
  return seen;
}

async function seeConntrack(exec: Exec) {
  const [count = 0, max = 0, stat = ""] = await Promise.all([
    readSetting(exec, "net.netfilter.nf_conntrack_count"),
    readSetting(exec, "net.netfilter.nf_conntrack_max"),
    exec.read("/proc/net/stat/nf_conntrack"),
  ]);
  return { count, max, drops: parseConntrackDrops(stat) };
}

/** Flows refused or thrown out because the table was full: one line a CPU, hexadecimal, named by the first line. */
export function parseConntrackDrops(text: string): number {
  const [head = "", ...cpus] = text.trim().split("\n");
  const names = head.trim().split(/\s+/);
  const columns = ["insert_failed", "drop", "early_drop"].map((name) => names.indexOf(name)).filter((i) => i >= 0);
  const perCpu = cpus.map((line) => line.trim().split(/\s+/));
  return perCpu.flatMap((f) => columns.map((i) => Number.parseInt(f[i] ?? "0", 16))).reduce((a, b) => a + b, 0);
}

async function seeUdp(exec: Exec) {
  const [v4 = "", v6 = ""] = await Promise.all([exec.read("/proc/net/snmp"), exec.read("/proc/net/snmp6")]);
  return parseUdpErrors(`${v4}\n${v6}`);
}

/** Datagrams the kernel took and gave to nobody, since boot, both IP versions: `Udp:` lines in pairs, `Udp6…` singly. */
export function parseUdpErrors(text: string): NonNullable<Observation["udp"]> {
  const [names = [], values = []] = text
    .split("\n")
    .filter((line) => line.startsWith("Udp:"))
    .map((line) => line.split(/\s+/));
  const of = (name: string) => {
    const v4 = Number(values[names.indexOf(name)] ?? 0);
    return v4 + Number(new RegExp(`^Udp6${name}\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  };
  return { inErrors: of("InErrors"), rcvbufErrors: of("RcvbufErrors"), sndbufErrors: of("SndbufErrors") };
}

/** In steps of 16 MiB: every byte more or less is no news. */
function memoryUsed(): number {
  let free = 0;
  try {
    free = Number(/^MemAvailable:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    // No such file on this system: all of it counts as used.
  }
  const step = 16 * 1024 * 1024;
  return Math.round((totalmem() - free) / step) * step;
}
