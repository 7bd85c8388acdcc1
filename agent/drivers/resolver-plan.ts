import { createHash } from "node:crypto";
import { join } from "node:path";
import type { StateItem, WhitelistItem } from "../../shared/protocol/desired-state.ts";
import { ipv4Schema } from "../../shared/protocol/values.ts";
import { itemsOf } from "./driver.ts";
import { EXIT_TABLE, namesSet, RESOLVER_PORT } from "./whitelist-plan.ts";

/** Seconds a client may keep an answer: far less than its address stays, so it asks again, and the address is renewed, in time. */
export const MAX_TTL = 300;

/** What a tunnel's resolver should be. */
export interface ResolverWant {
  item: string;
  tunnel: string;
  /** Where its files are. */
  dir: string;
  argv: string[];
  configFile: string;
  config: string;
  /** The names it knows and whom it asks for them; read again on SIGHUP. */
  serversFile: string;
  servers: string;
  listed: ReadonlySet<string>;
}

export const serviceOf = (tunnel: string) => `dns-${tunnel}`;
export const logFileOf = (dir: string) => join(dir, "queries.log");
export const bookFileOf = (dir: string) => join(dir, "book.json");
export const dirOf = (root: string, tunnel: string) => join(root, tunnel);

/**
 * dnsmasq is root for what it must do to the set (CAP_NET_ADMIN), and no more: none of root's other ways into the host.
 * It asks for the rest of these when it starts.
 */
const CAPABILITIES = ["net_admin", "net_raw", "net_bind_service", "setgid", "setuid", "setpcap"];
export const CONFINED = [
  "setpriv",
  `--bounding-set=-all,${CAPABILITIES.map((c) => `+${c}`).join(",")}`,
  "--no-new-privs",
  "--",
];

/** The resolvers of a state. `hostServers` are those of the host's own resolv.conf. */
export function resolverWants(items: readonly StateItem[], root: string, hostServers: readonly string[]) {
  const wants = new Map<string, ResolverWant>();
  const refused: { item: string; error: string }[] = [];
  for (const item of itemsOf(items, "whitelist")) {
    if (item.domains.length === 0 || wants.has(item.interface)) continue;
    const tunnel = itemsOf(items, "wireguard").find((t) => t.interface === item.interface);
    const servers = item.resolvers ?? hostServers;
    if (!tunnel) continue; // nobody to answer
    if (servers.length === 0)
      refused.push({ item: item.id, error: "no_resolver: the item names none and the host's resolv.conf has none" });
    else wants.set(item.interface, want(item, tunnel.address.split("/")[0] ?? "", root, servers));
  }
  return { wants, refused };
}

function want(item: WhitelistItem, address: string, root: string, servers: readonly string[]): ResolverWant {
  const dir = dirOf(root, item.interface);
  const serversFile = join(dir, "servers");
  const config = configText(item.interface, address, dir, serversFile);
  // Another configuration is another file, so another argv: what runs can be told from its command line.
  const hash = createHash("sha256").update(config).digest("hex").slice(0, 12);
  const configFile = join(dir, `dnsmasq-${hash}.conf`);
  return {
    item: item.id,
    tunnel: item.interface,
    dir,
    argv: ["dnsmasq", "--keep-in-foreground", `--conf-file=${configFile}`],
    configFile,
    config,
    serversFile,
    servers: serversText(item.domains, servers),
    listed: new Set(item.domains),
  };
}

/**
 * No cache: an answer from it would not put its addresses into the set again. Whatever name resolves is a listed one,
 * since there is no server for any other, so one rule for the set serves all. Only IPv4 leaves the tunnel: AAAA is
 * answered empty, and HTTPS records, whose address hints never reach the set, are left out.
 */
function configText(tunnel: string, address: string, dir: string, serversFile: string): string {
  return `port=${RESOLVER_PORT}
listen-address=${address}
bind-dynamic
user=root
group=root
pid-file=${join(dir, "pid")}
no-resolv
no-hosts
no-poll
cache-size=0
max-ttl=${MAX_TTL}
dns-forward-max=1000
filter-AAAA
filter-rr=HTTPS
filter-rr=SVCB
servers-file=${serversFile}
nftset=/#/4#ip#${EXIT_TABLE}#${namesSet(tunnel)}
log-queries=extra
log-facility=${logFileOf(dir)}
`;
}

/**
 * dnsmasq takes a name to mean all below it as well, unless those are said to be nobody's; what is below `*.name` is
 * matched without the name itself. The longer name wins, so a listed name below an exact one still resolves.
 */
function serversText(domains: readonly string[], servers: readonly string[]): string {
  const listed = new Set(domains);
  const lines = [...listed].sort().flatMap((domain) => {
    const lines = servers.map((server) => `server=/${domain}/${server}`);
    if (!domain.startsWith("*.") && !listed.has(`*.${domain}`)) lines.push(`server=/*.${domain}/`);
    return lines;
  });
  return `${lines.join("\n")}\n`;
}

/** IPv4 name servers of a resolv.conf. */
export function nameserversOf(text: string): string[] {
  return [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].flatMap(([, address]) =>
    ipv4Schema.safeParse(address).success && address !== undefined ? [address] : [],
  );
}
