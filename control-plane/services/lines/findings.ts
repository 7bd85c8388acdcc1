import { z } from "zod";
import type { HostRole } from "../../../shared/protocol/enrolment.ts";
import type { HostState, LineState } from "../../db/schema/index.ts";

/** Everything "why can't I connect" can come to. Codes are part of the API: added, never renamed. */
export const FINDING_CODES = [
  "line_not_active",
  "expired",
  "expires_soon",
  "no_connection",
  "host_offline",
  "host_draining",
  "configuration_failed",
  "configuration_lagging",
  "peer_missing",
  "no_packets",
  "no_handshake",
  "handshake_stale",
  "whitelist_empty",
  "whitelist_denials",
  "path_degraded",
] as const;

export const findingView = z.object({
  code: z.enum(FINDING_CODES),
  /** `error` explains that nothing passes; `warning` that it may not, or not well; `info` is worth knowing. */
  severity: z.enum(["error", "warning", "info"]),
  /** The host it is about, if it is about one. */
  hostId: z.string().nullable(),
  text: z.string(),
});
export type Finding = z.infer<typeof findingView>;

/** One host of the line's path, as far as findings need it. */
export type HopFacts = {
  role: HostRole;
  hostId: string;
  state: HostState;
  online: boolean;
  silentMs: number | null;
  desiredRev: number;
  appliedRev: number | null;
  /** The revision that brought the connection; null when none of its own was needed. */
  neededRev: number | null;
  /** Items of this line that failed there. */
  failed: readonly { item: string; error: string }[];
  /** The segment to the next hop, where its alarm is raised. */
  degraded: { target: string; lossPct: number; p50Ms: number | null } | null;
};

/** What is known of a line at one moment. Times are UTC ms. */
export type LineFacts = {
  now: number;
  line: { state: LineState; endsAt: number };
  connection: { openedAt: number } | null;
  hops: readonly HopFacts[];
  /** The connection's relay on the forward host; null while it has not been seen there. */
  relay: { flows: number; bytes: number } | null;
  /** The client's peer on the exit; undefined while the exit has told nothing of its tunnel, null when it has no such peer. */
  peer: { lastHandshakeAt: number | null } | null | undefined;
  whitelist: { entries: number; deniedPackets: number; deniedNames: number } | null;
};

/** Hosts tell what they see every 15 s: before two such rounds have passed, what is not seen means nothing. */
const SETTLED_MS = 30_000;
/** WireGuard renews a key every two minutes while it has something to send; clients of ours send every 25 s. */
const STALE_MS = 180_000;
const SOON_MS = 3 * 86_400_000;

/**
 * Why a line's client can't connect, or might not: nearest to the cause first. Pure. What follows from an earlier finding is
 * left out, as far as one explains the other: without a connection nothing is said of packets.
 */
export function findingsOf(facts: LineFacts): Finding[] {
  return [...ofLine(facts), ...facts.hops.flatMap((hop) => ofHop(hop)), ...ofTraffic(facts), ...ofWhitelist(facts)];
}

function finding(severity: Finding["severity"], code: Finding["code"], text: string, hostId: string | null = null) {
  return { code, severity, hostId, text };
}

function ofLine({ now, line, connection }: LineFacts): Finding[] {
  const found: Finding[] = [];
  const ends = new Date(line.endsAt).toISOString();
  if (line.endsAt <= now) found.push(finding("error", "expired", `The line ended at ${ends}.`));
  else if (line.endsAt - now <= SOON_MS) found.push(finding("info", "expires_soon", `The line ends at ${ends}.`));
  if (line.state !== "active" && line.endsAt > now)
    found.push(finding("error", "line_not_active", `The line is ${line.state}.`));
  if (connection === null && found.every(({ severity }) => severity !== "error"))
    found.push(finding("error", "no_connection", "No connection is open: the client has to open one."));
  return found;
}

function ofHop(hop: HopFacts): Finding[] {
  const { hostId, role } = hop;
  const found: Finding[] = [];
  if (!hop.online) {
    const silent =
      hop.silentMs === null ? "was never heard" : `was last heard ${Math.round(hop.silentMs / 1000)} s ago`;
    // What it holds goes on: traffic passes a host without a link, only changes do not reach it.
    found.push(finding("warning", "host_offline", `The ${role} host ${silent}: changes do not reach it.`, hostId));
  }
  if (hop.state === "draining")
    found.push(finding("info", "host_draining", `The ${role} host takes no new connections.`, hostId));
  for (const { item, error } of hop.failed)
    found.push(finding("error", "configuration_failed", `The ${role} host could not apply ${item}: ${error}`, hostId));
  if (hop.neededRev !== null && (hop.appliedRev ?? -1) < hop.neededRev)
    found.push(
      finding("error", "configuration_lagging", `The ${role} host has not applied the connection yet.`, hostId),
    );
  else if (hop.appliedRev !== hop.desiredRev)
    found.push(
      finding(
        "warning",
        "configuration_lagging",
        `The ${role} host is at revision ${hop.appliedRev ?? "none"}, and should be at ${hop.desiredRev}.`,
        hostId,
      ),
    );
  if (hop.degraded !== null) {
    const { target, lossPct, p50Ms } = hop.degraded;
    const took = p50Ms === null ? "" : `, ${Math.round(p50Ms)} ms`;
    const text = `The way from the ${role} host to ${target} is bad: ${lossPct}% lost${took}.`;
    found.push(finding("warning", "path_degraded", text, hostId));
  }
  return found;
}

function ofTraffic({ now, connection, relay, peer, hops }: LineFacts): Finding[] {
  if (connection === null || now - connection.openedAt < SETTLED_MS) return [];
  const idOf = (role: HostRole) => hops.find((hop) => hop.role === role)?.hostId ?? null;
  if (peer === null)
    return [finding("error", "peer_missing", "The exit's tunnel does not know the client's key.", idOf("exit"))];
  const last = peer?.lastHandshakeAt ?? null;
  if (last !== null && now - last <= STALE_MS) return [];
  if (last !== null) {
    const seconds = Math.round((now - last) / 1000);
    return [finding("warning", "handshake_stale", `The client's last handshake was ${seconds} s ago: it is away.`)];
  }
  if (relay !== null && relay.flows === 0 && relay.bytes === 0)
    return [
      finding(
        "error",
        "no_packets",
        "Nothing of the client has reached the forward host: it does not send, sends elsewhere, or is blocked before.",
        idOf("forward"),
      ),
    ];
  return [
    finding(
      "error",
      "no_handshake",
      "There was no handshake with the exit: the client has another key, or packets are lost behind the forward host.",
      idOf("exit"),
    ),
  ];
}

function ofWhitelist({ whitelist, connection, line }: LineFacts): Finding[] {
  if (whitelist === null || connection === null || line.state !== "active") return [];
  const { entries, deniedPackets, deniedNames } = whitelist;
  const found: Finding[] = [];
  if (entries === 0) found.push(finding("error", "whitelist_empty", "The whitelist is empty: nothing may pass."));
  if (deniedPackets + deniedNames > 0)
    found.push(
      finding(
        "info",
        "whitelist_denials",
        `${deniedPackets} packets and ${deniedNames} names that are not on the whitelist were refused so far.`,
      ),
    );
  return found;
}
