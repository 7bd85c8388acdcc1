import { sql } from "drizzle-orm";
import { index, integer, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import type { HostRole } from "../../../shared/protocol/enrolment.ts";
import { flag, id, instant, json } from "./columns.ts";
import { hosts } from "./hosts.ts";

/** `canary`: the first hosts; `waiting`: they have it, and time has to pass; `rolling`: the others. */
export const ROLLOUT_STATES = ["canary", "waiting", "rolling", "halted", "done", "cancelled"] as const;
export type RolloutState = (typeof ROLLOUT_STATES)[number];
/** In these it sends to hosts. */
export const ACTIVE_ROLLOUT_STATES: RolloutState[] = ["canary", "waiting", "rolling"];

export const ROLLOUT_HOST_STATES = ["pending", "sent", "committed", "returned", "failed", "skipped"] as const;
export type RolloutHostState = (typeof ROLLOUT_HOST_STATES)[number];

/** Which hosts: all that fit every member given. */
export type RolloutTarget = {
  hostIds?: `hst_${string}`[] | undefined;
  role?: HostRole | undefined;
  regionId?: string | undefined;
};

/** An agent's version on its way to hosts. */
export const rollouts = sqliteTable("rollouts", {
  id: id("rol").primaryKey(),
  version: text().notNull(),
  /** As the release key signed it: kept here, so that every process sends the same. */
  manifest: text().notNull(),
  signature: text().notNull(),
  target: json<RolloutTarget>().notNull(),
  state: text({ enum: ROLLOUT_STATES }).notNull(),
  /** Hosts under way at once. */
  batch: integer().notNull(),
  /** How long the canaries run it before the others get it. */
  soakMs: integer().notNull(),
  /** How long a host has to link and be in sync with it. */
  trialS: integer().notNull(),
  /** Hosts with a newer version take this older one. */
  older: flag().notNull(),
  /** Of `waiting`: its end. */
  waitUntil: instant(),
  haltReason: text(),
  /** How often it was resumed; names its job. */
  resumes: integer().notNull(),
  createdBy: text().notNull(),
  createdAt: instant().notNull(),
  endedAt: instant(),
});

/** A host's part in a rollout. */
export const rolloutHosts = sqliteTable(
  "rollout_hosts",
  {
    rolloutId: id("rol")
      .notNull()
      .references(() => rollouts.id),
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    canary: flag().notNull(),
    state: text({ enum: ROLLOUT_HOST_STATES }).notNull(),
    /** Names one try on the host; asked again under it, the host says how far it is. */
    attempt: id("tsk"),
    fromVersion: text(),
    /** Items that failed before: they are not the new version's doing. */
    failedBefore: json<string[]>(),
    /** The new version said that it runs, on trial. */
    onTrial: flag().notNull(),
    sentAt: instant(),
    /** Without an answer by then it counts as failed. */
    deadlineAt: instant(),
    endedAt: instant(),
    error: text(),
    lastWords: text(),
  },
  (t) => [
    uniqueIndex("rollout_hosts_host").on(t.rolloutId, t.hostId),
    // A host takes part in one rollout at a time.
    uniqueIndex("rollout_hosts_one_at_a_time").on(t.hostId).where(sql`state IN ('pending', 'sent')`),
    index("rollout_hosts_sent").on(t.state),
  ],
);
