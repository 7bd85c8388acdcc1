import { sql } from "drizzle-orm";
import { index, integer, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import type { HostFacts } from "../../../shared/protocol/enrolment.ts";
import { HOST_ROLES } from "../../../shared/protocol/enrolment.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
import { flag, id, instant, json } from "./columns.ts";
import { regions } from "./orders.ts";

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
