import { and, asc, eq, gt, ne, sql } from "drizzle-orm";
import type { HostRole } from "../../../shared/protocol/enrolment.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { isOnline } from "./reach.ts";

/** Rows read at once: an answer of a database over HTTP stays small. */
const CHUNK = 500;
/** Members of an observation that series are made of, read out by the database: a forward's relays are long. */
const MEMBERS = ["conntrack", "udp", "wireguard", "whitelist"] as const;
type Seen = Pick<Observation, (typeof MEMBERS)[number]>;

type Sample = { role: HostRole; online: boolean; silentMs: number | null; behind: number; seen: Seen; now: number };

/** One series a host and name, whatever number of lines or mappings the host has. Undefined: this host has none. */
const SERIES: readonly [
  name: string,
  type: "gauge" | "counter",
  help: string,
  of: (s: Sample) => number | undefined,
][] = [
  ["linked", "gauge", "1 while the host is joined and answering", (s) => Number(s.online)],
  [
    "silent_seconds",
    "gauge",
    "Since the host's last sign of life",
    (s) => (s.silentMs === null ? undefined : s.silentMs / 1000),
  ],
  ["revisions_behind", "gauge", "Desired revision less the one the host has verified", (s) => s.behind],
  ["conntrack_entries", "gauge", "Flows the kernel tracks", (s) => s.seen.conntrack?.count],
  ["conntrack_limit", "gauge", "Flows the kernel can track", (s) => s.seen.conntrack?.max],
  ["conntrack_drops_total", "counter", "Flows lost to a full table, since boot", (s) => s.seen.conntrack?.drops],
  ["udp_in_errors_total", "counter", "Datagrams given to nobody, since boot", (s) => s.seen.udp?.inErrors],
  [
    "udp_rcvbuf_errors_total",
    "counter",
    "Datagrams lost to full receive buffers, since boot",
    (s) => s.seen.udp?.rcvbufErrors,
  ],
  [
    "udp_sndbuf_errors_total",
    "counter",
    "Datagrams lost to full send buffers, since boot",
    (s) => s.seen.udp?.sndbufErrors,
  ],
  ["handshake_age_seconds", "gauge", "Since the newest WireGuard handshake of any client", handshakeAge],
  [
    "denied_packets_total",
    "counter",
    "Packets refused by whitelists, as the kernel counts them",
    (s) => s.seen.whitelist?.reduce((n, one) => n + one.deniedPackets, 0),
  ],
];

/** By the host's clock: one that is off by seconds is an event of its own. */
function handshakeAge({ seen, now }: Sample): number | undefined {
  const peers = (seen.wireguard ?? []).flatMap((tunnel) => tunnel.peers);
  const newest = Math.max(...peers.map((peer) => peer.lastHandshakeAt ?? -Infinity));
  return newest === -Infinity ? undefined : Math.max(0, now - newest) / 1000;
}

/**
 * Every host that was let in, in Prometheus' text format 0.0.4, as the database has it: the same from whichever process
 * is asked. Series are by host and role; bytes of a mapping or a line are in the API, not here.
 */
export async function hostMetrics(ctx: Context): Promise<string> {
  const { db, clock } = ctx.ports;
  const lines = SERIES.map(([name, type, help]) => [
    `# HELP trunkline_host_${name} ${help}`,
    `# TYPE trunkline_host_${name} ${type}`,
  ]);
  const members = sql.raw(MEMBERS.map((name) => `'$.${name}'`).join(", "));
  let after = "hst_" as `hst_${string}`;
  for (;;) {
    const rows = await db.read
      .select({
        id: t.hosts.id,
        role: t.hosts.role,
        state: t.hosts.state,
        lastSeenAt: t.hosts.lastSeenAt,
        desiredRev: t.hosts.desiredRev,
        appliedRev: t.hosts.appliedRev,
        seen: sql<string | null>`json_extract(${t.hosts.observed}, ${members})`,
      })
      .from(t.hosts)
      .where(and(gt(t.hosts.id, after), eq(t.hosts.approved, true), ne(t.hosts.state, "retired")))
      .orderBy(asc(t.hosts.id))
      .limit(CHUNK);
    const now = clock.now();
    for (const row of rows) {
      const values = JSON.parse(row.seen ?? "[]") as unknown[];
      const sample: Sample = {
        role: row.role,
        online: isOnline(row, now),
        silentMs: row.lastSeenAt === null ? null : now - row.lastSeenAt,
        behind: Math.max(0, row.desiredRev - (row.appliedRev ?? -1)),
        seen: Object.fromEntries(MEMBERS.map((name, i) => [name, values[i] ?? undefined])) as Seen,
        now,
      };
      for (const [i, [name, , , of]] of SERIES.entries()) {
        const value = of(sample);
        if (value !== undefined) lines[i]?.push(`trunkline_host_${name}{host="${row.id}",role="${row.role}"} ${value}`);
      }
    }
    const last = rows.at(-1);
    if (last === undefined || rows.length < CHUNK) break;
    after = last.id;
  }
  return `${lines.flat().join("\n")}\n`;
}
