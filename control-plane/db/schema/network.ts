import { sql } from "drizzle-orm";
import { index, integer, primaryKey, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import type { HostFacts } from "../../../shared/protocol/enrolment.ts";
import { HOST_ROLES } from "../../../shared/protocol/enrolment.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
import { users } from "./accounts.ts";
import { flag, id, instant, json } from "./columns.ts";
import { LINE_TYPES, regions, resources } from "./orders.ts";

export const HOST_STATES = ["pending", "online", "offline", "draining", "retired"] as const;
export type HostState = (typeof HOST_STATES)[number];

export type ItemResult = { item: string; ok: boolean; error?: string | undefined };

export const hosts = sqliteTable(
  "hosts",
  {
    id: id("hst").primaryKey(),
    role: text({ enum: HOST_ROLES }).notNull(),
    regionId: text()
      .notNull()
      .references(() => regions.id),
    name: text().notNull(),
    /** An operator has let it in. Without this its desired state is empty. */
    approved: flag().notNull(),
    state: text({ enum: HOST_STATES }).notNull(),
    publicAddress: text(),
    privateAddress: text(),
    /** Name of the private network (UDPN) that `privateAddress` belongs to; hosts of one network reach each other there. */
    privateNetwork: text(),
    /** Interface the exit's traffic leaves by; null is the one of its default route. */
    outInterface: text(),
    relayDriver: text({ enum: ["nft", "socat"] }).notNull(),
    /** Most connections a boarding or forward host takes; null leaves it to its pairs' ports. An exit serves one line. */
    capacity: integer(),
    wireguardPort: integer().notNull(),
    uplinkPort: integer().notNull(),
    /** Where a forward host passes other hosts' links on to the control plane. */
    linkProxyPort: integer().notNull().default(51_822),
    /** The token it enrolled with: the same identity with the same token gets the same answer again. */
    enrolmentTokenId: id("enr").notNull(),
    identityPublicKey: text().notNull(),
    boxPublicKey: text().notNull(),
    wireguardPublicKey: text(),
    facts: json<HostFacts>().notNull(),
    version: text().notNull(),
    /** Canonical JSON of what its agent said it understands; null for one that says nothing of it. */
    understands: text(),
    bootId: text(),
    /** Grows in the same transaction as any change that touches the host. */
    desiredRev: integer().notNull(),
    /** What the host last said it holds, and whether every item was verified. */
    appliedRev: integer(),
    appliedSha256: text(),
    appliedResults: json<ItemResult[]>(),
    appliedAt: instant(),
    /** Since when items of the host fail; null when the last acknowledgement named none. */
    failingSince: instant(),
    /** Of the newest session; an older one's acks are refused. */
    epoch: integer().notNull(),
    /** When that session joined. */
    linkedAt: instant(),
    lastSeenAt: instant(),
    /** When the newest session joined; an ack from after it is this session's. */
    joinedAt: instant(),
    /** The forward host its link goes through, as the host says; null for a direct one. */
    linkVia: id("hst"),
    observed: json<Observation>(),
    createdAt: instant().notNull(),
  },
  (t) => [
    uniqueIndex("hosts_identity").on(t.identityPublicKey),
    index("hosts_role_region").on(t.role, t.regionId),
    // The address a line's traffic leaves from is its own: no two exits hold one.
    uniqueIndex("hosts_exit_address")
      .on(t.publicAddress)
      .where(sql`role = 'exit' AND state <> 'retired' AND public_address IS NOT NULL`),
    index("hosts_private_network").on(t.privateNetwork),
  ],
);

/** What happened on a host: drift repaired, items that failed, ends enforced there. */
export const hostEvents = sqliteTable(
  "host_events",
  {
    id: id("evt").primaryKey(),
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    at: instant().notNull(),
    kind: text().notNull(),
    item: text(),
    detail: text().notNull(),
  },
  (t) => [index("host_events_host").on(t.hostId, t.id)],
);

/** What led to a revision: an audit row of the same transaction. */
export type RevisionCause = { action: string; subject: string };

/** Why a host's desired revision grew, by whom, what changed, and when the host had applied it. A row a transaction. */
export const hostRevisions = sqliteTable(
  "host_revisions",
  {
    id: id("rev").primaryKey(),
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    rev: integer().notNull(),
    at: instant().notNull(),
    actor: text().notNull(),
    requestId: text(),
    causes: json<RevisionCause[]>().notNull(),
    /** In words, a sentence a change. */
    changes: json<string[]>().notNull(),
    /** The first acknowledgement of this revision or a later one, and the items that failed then. */
    appliedAt: instant(),
    failed: json<string[]>(),
  },
  (t) => [
    index("host_revisions_host").on(t.hostId, t.id),
    index("host_revisions_waiting").on(t.hostId, t.rev).where(sql`applied_at IS NULL`),
  ],
);

export const PATH_STATES = ["unknown", "good", "degraded"] as const;

/** A segment of the path as its near end probes it: one row a host and address it sends to. */
export const pathSegments = sqliteTable(
  "path_segments",
  {
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    target: text().notNull(),
    /** The host at the far end; null where it is the exit's own gateway. */
    toHostId: id("hst"),
    state: text({ enum: PATH_STATES }).notNull(),
    /** Rounds in a row that say the opposite of the state. */
    against: integer().notNull(),
    baselineUs: integer(),
    /** Since when it is in this state. */
    since: instant().notNull(),
    lastAt: instant().notNull(),
    lastSent: integer().notNull(),
    lastReceived: integer().notNull(),
    lastP50Us: integer(),
  },
  (t) => [
    primaryKey({ columns: [t.hostId, t.target] }),
    index("path_segments_degraded").on(t.hostId).where(sql`state = 'degraded'`),
  ],
);

/** What probes of a segment came to, summed over a bucket of time: short ones for days, an hour's for months. */
export const pathSeries = sqliteTable(
  "path_series",
  {
    hostId: id("hst").notNull(),
    target: text().notNull(),
    /** How long the bucket is, ms. */
    span: integer().notNull(),
    bucket: instant().notNull(),
    rounds: integer().notNull(),
    sent: integer().notNull(),
    received: integer().notNull(),
    minUs: integer(),
    maxUs: integer(),
    /** Of the rounds that were answered: their number, and the sum of their medians. */
    answered: integer().notNull(),
    p50SumUs: integer().notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.hostId, t.target, t.span, t.bucket] }),
    index("path_series_age").on(t.span, t.bucket),
  ],
);

export const enrolmentTokens = sqliteTable(
  "enrolment_tokens",
  {
    id: id("enr").primaryKey(),
    tokenHash: text().notNull(),
    prefix: text().notNull(),
    role: text({ enum: HOST_ROLES }).notNull(),
    regionId: text()
      .notNull()
      .references(() => regions.id),
    maxUses: integer().notNull(),
    used: integer().notNull(),
    createdAt: instant().notNull(),
    expiresAt: instant().notNull(),
  },
  (t) => [uniqueIndex("enrolment_tokens_token").on(t.tokenHash)],
);

/** A boarding address and the forward host it serves, with a fixed range of ports. */
export const pairs = sqliteTable(
  "pairs",
  {
    id: id("par").primaryKey(),
    boardingHostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    boardingAddress: text().notNull(),
    forwardHostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    startPort: integer().notNull(),
    /** How many ports, and so how many connections at most. */
    maxLoad: integer().notNull(),
    /** The port allocated last; the search for a free one starts after it. */
    lastPort: integer(),
    createdAt: instant().notNull(),
    /** Taken apart; the row stays for the connections that went through it. */
    retiredAt: instant(),
  },
  (t) => [index("pairs_forward").on(t.forwardHostId), index("pairs_boarding").on(t.boardingHostId)],
);

export const LINE_STATES = ["provisioning", "active", "off", "failed", "deleted"] as const;
export type LineState = (typeof LINE_STATES)[number];

export const lines = sqliteTable(
  "lines",
  {
    id: id("lin").primaryKey(),
    userId: id("usr")
      .notNull()
      .references(() => users.id),
    resourceId: id("res")
      .notNull()
      .references(() => resources.id),
    sourceRegionId: text().notNull(),
    destinationRegionId: text().notNull(),
    lineType: text({ enum: LINE_TYPES }).notNull(),
    state: text({ enum: LINE_STATES }).notNull(),
    exitHostId: id("hst").references(() => hosts.id),
    eip: text(),
    /** Of its tunnel, both ends; null is what every tunnel has. */
    mtu: integer(),
    createdAt: instant().notNull(),
  },
  (t) => [
    uniqueIndex("lines_resource").on(t.resourceId),
    // An exit serves one line: this makes taking one from the pool a race that only one order wins.
    uniqueIndex("lines_exit").on(t.exitHostId).where(sql`state <> 'deleted' AND exit_host_id IS NOT NULL`),
    index("lines_user").on(t.userId),
  ],
);

/** An account's own whitelist: replaces those of its lines' service types. */
export const accountWhitelists = sqliteTable("account_whitelists", {
  userId: id("usr")
    .primaryKey()
    .references(() => users.id),
  cidrs: json<string[]>().notNull(),
  domains: json<string[]>().notNull(),
});

export const PROVISION_STEPS = [
  "take_exit",
  "get_address",
  "bind_address",
  "await_link",
  "apply_state",
  "activate",
] as const;
export type ProvisionStep = (typeof PROVISION_STEPS)[number];

/** The provisioning saga of a line, a row a step. */
export const provisionSteps = sqliteTable(
  "provision_steps",
  {
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    step: text({ enum: PROVISION_STEPS }).notNull(),
    state: text({ enum: ["pending", "done", "failed", "undone"] }).notNull(),
    tries: integer().notNull(),
    lastError: text(),
    updatedAt: instant().notNull(),
  },
  (t) => [uniqueIndex("provision_steps_line_step").on(t.lineId, t.step)],
);

export const lineTokens = sqliteTable(
  "line_tokens",
  {
    id: id("ltk").primaryKey(),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    name: text().notNull(),
    prefix: text().notNull(),
    tokenHash: text().notNull(),
    createdAt: instant().notNull(),
    revokedAt: instant(),
  },
  (t) => [uniqueIndex("line_tokens_token").on(t.tokenHash), index("line_tokens_line").on(t.lineId)],
);

export const CLOSE_REASONS = ["closed", "replaced", "expired", "forward_silent"] as const;
export type CloseReason = (typeof CLOSE_REASONS)[number];

export const connections = sqliteTable(
  "connections",
  {
    id: id("con").primaryKey(),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    pairId: id("par")
      .notNull()
      .references(() => pairs.id),
    forwardHostId: id("hst").notNull(),
    exitHostId: id("hst").notNull(),
    port: integer().notNull(),
    clientPublicKey: text().notNull(),
    state: text({ enum: ["active", "closed"] }).notNull(),
    /** The hosts hold this connection once they have applied these revisions. */
    forwardRev: integer().notNull(),
    exitRev: integer().notNull(),
    openedAt: instant().notNull(),
    closedAt: instant(),
    closeReason: text({ enum: CLOSE_REASONS }),
  },
  (t) => [
    // These two make it impossible that two connections share a port or a line.
    uniqueIndex("connections_port").on(t.forwardHostId, t.port).where(sql`state = 'active'`),
    uniqueIndex("connections_line").on(t.lineId).where(sql`state = 'active'`),
    index("connections_recent").on(t.forwardHostId, t.closedAt),
    index("connections_by_line").on(t.lineId, t.id),
    // Whose usage a peer's is.
    index("connections_by_peer").on(t.exitHostId, t.clientPublicKey, t.id),
  ],
);

export const CAPTURE_STATES = ["running", "done", "failed", "deleted"] as const;

export const captures = sqliteTable(
  "captures",
  {
    id: id("cap").primaryKey(),
    lineId: id("lin")
      .notNull()
      .references(() => lines.id),
    hostId: id("hst").notNull(),
    forwardHostId: id("hst").notNull(),
    point: text({ enum: ["tunnel", "outside"] }).notNull(),
    filter: text().notNull(),
    reason: text().notNull(),
    seconds: integer().notNull(),
    maxBytes: integer().notNull(),
    maxPackets: integer(),
    snapLength: integer().notNull(),
    state: text({ enum: CAPTURE_STATES }).notNull(),
    /** Hash of the one-time token the forward host uploads with. */
    uploadTokenHash: text().notNull(),
    stopReason: text(),
    error: text(),
    interface: text(),
    packets: integer(),
    receivedByFilter: integer(),
    droppedByKernel: integer(),
    clockOffsetMs: integer(),
    size: integer(),
    sha256: text(),
    requestedBy: id("usr").notNull(),
    createdAt: instant().notNull(),
    /** An operator ended it early. */
    stoppedAt: instant(),
    endedAt: instant(),
    deleteAt: instant().notNull(),
  },
  (t) => [
    uniqueIndex("captures_one_per_host").on(t.hostId).where(sql`state = 'running'`),
    uniqueIndex("captures_upload").on(t.uploadTokenHash),
    index("captures_line").on(t.lineId),
  ],
);
