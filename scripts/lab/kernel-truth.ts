import { type Client, createClient } from "@libsql/client/sqlite3";
import { drizzle } from "drizzle-orm/libsql";
import { itemsOf } from "../../agent/drivers/driver.ts";
import * as schema from "../../control-plane/db/schema/index.ts";
import type { Db } from "../../control-plane/ports/index.ts";
import { desiredState } from "../../control-plane/services/hosts/desired-state.ts";
import type { Id } from "../../shared/ids.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Lab } from "./lab.ts";
import type { Namespace } from "./netns.ts";

/** The control plane's database, read past the control plane. */
export class Truth {
  readonly client: Client;
  readonly #db: Db;

  constructor(lab: Lab) {
    this.client = createClient({ url: `file:/proc/${lab.cp.ns.holderPid}/root${lab.cp.dir}/data/trunkline.db` });
    this.#db = drizzle(this.client, { schema, casing: "snake_case" });
  }

  async desired(hostId: string): Promise<StateItem[]> {
    return (await desiredState(this.#db, hostId as Id<"hst">))?.items ?? [];
  }

  close(): void {
    this.client.close();
  }
}

/** What a host's kernel should hold, in the words of {@link heldBy}. */
export function wantedOf(items: readonly StateItem[], now: number): string[] {
  const relays = itemsOf(items, "relay").map(({ listen, to }) =>
    listen.from === listen.to && to.port !== "same"
      ? `port ${listen.from} to ${to.address}:${to.port}`
      : `ports ${listen.from}-${listen.to} to ${to.address}`,
  );
  const peers = itemsOf(items, "wireguard").flatMap((item) =>
    item.peers
      .filter(({ notAfter }) => notAfter === null || notAfter > now)
      .map((peer) => `peer ${peer.publicKey} at ${peer.allowedIps.join()} of ${item.interface}:${item.listenPort}`),
  );
  const allowed = itemsOf(items, "whitelist").flatMap((item) =>
    item.cidrs.map((cidr) => `${item.interface} to ${cidr}`),
  );
  return [...relays, ...peers, ...allowed].sort();
}

/** What a host's kernel really holds, read by the tools and not by the agent's own drivers. */
export async function heldBy(ns: Namespace): Promise<string[]> {
  const { stdout } = await ns.exec(["nft", "list", "ruleset"]);
  const element = /(\d+) : ([\d.]+) \. (\d+)/g;
  const relays = [...stdout.matchAll(element)].map(([, port, address, to]) => `port ${port} to ${address}:${to}`);
  const range = /udp dport (\d+)-(\d+) ct mark set [^\n]*dnat to ([\d.]+)/g;
  const ranges = [...stdout.matchAll(range)].map(([, from, to, address]) => `ports ${from}-${to} to ${address}`);
  const sets = [...stdout.matchAll(/set wl4_(\S+) \{[^}]*?elements = \{([^}]*)\}/g)];
  const allowed = sets.flatMap(([, name, text = ""]) =>
    text.split(",").map((one) => `${name} to ${one.trim().includes("/") ? one.trim() : `${one.trim()}/32`}`),
  );
  const dump = await ns.exec(["wg", "show", "all", "dump"], { check: false });
  const rows = dump.stdout.split("\n").map((line) => line.split("\t"));
  const ports = new Map(rows.filter((row) => row.length === 5).map((row) => [row[0], row[3]]));
  const peers = rows
    .filter((row) => row.length === 9)
    .map(([name, key, , , ips]) => `peer ${key} at ${ips} of ${name}:${ports.get(name ?? "")}`);
  return [...relays, ...ranges, ...peers, ...allowed].sort();
}
