import { and, eq, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import { HOST_EVENT_KINDS, type HostEvent, type Observation } from "../../../shared/protocol/frames.ts";
import { inList, keptLine } from "../../db/indexed.ts";
import { rowsOf } from "../../db/prepared.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { recordProbes } from "../paths/record.ts";
import { insertEvent } from "./events.ts";
import { rounds } from "./rounds.ts";

/**
 * What a host reports over its link. Every write is scoped to the session's host and epoch, so a session that was
 * superseded, or a host that lies, changes nothing else.
 */

/** The session of that epoch ended; a newer session's host stays online. */
export async function leaveHost(ctx: Context, hostId: Id<"hst">, epoch: number, why: string): Promise<void> {
  await transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.hosts)
      .set({
        state: sql`CASE WHEN ${t.hosts.state} = 'online' THEN 'offline' ELSE ${t.hosts.state} END`,
        linkedAt: null,
      })
      .where(and(eq(t.hosts.id, hostId), eq(t.hosts.epoch, epoch)));
    if (rowsAffected === 1) await insertEvent(ctx, tx, hostId, "link_down", why);
  });
}

export type Ack = {
  hostId: Id<"hst">;
  /** Of the session that it came by. */
  epoch: number;
  rev: number;
  sha256: string;
  results: t.ItemResult[];
};

/**
 * Hosts verified revisions: all of them in one transaction, in this order. Answers for each false when its session is no longer
 * the newest. A line that waits for one of these hosts to be provisioned goes on at once.
 */
export async function acknowledge(ctx: Context, acks: readonly Ack[]): Promise<boolean[]> {
  if (acks.length === 0) return [];
  const now = ctx.ports.clock.now();
  return transaction(ctx, async (tx) => {
    const stored = new Set<Ack>();
    for (const round of rounds(acks, (ack) => ack.hostId)) {
      const ids = await storeAcks(tx, round, now);
      const these = round.filter((ack) => ids.has(ack.hostId));
      await settleRevisions(tx, these, now);
      for (const ack of these) stored.add(ack);
    }
    await resumeProvisioning(
      tx,
      [...stored].map((ack) => ack.hostId),
      now,
    );
    return acks.map((ack) => stored.has(ack));
  });
}

const failedOf = (ack: Ack) => JSON.stringify(ack.results.filter((result) => !result.ok).map((result) => result.item));

/** Answers which hosts' sessions were the newest. */
async function storeAcks(tx: Transaction, acks: readonly Ack[], now: number): Promise<Set<string>> {
  const rows = rowsOf(
    ["id", "epoch", "rev", "sha256", "results", "failed"],
    acks.map((ack) => ({
      id: ack.hostId,
      epoch: ack.epoch,
      rev: ack.rev,
      sha256: ack.sha256,
      results: JSON.stringify(ack.results),
      failed: failedOf(ack),
    })),
  );
  const stored = await tx.db.all<{ id: string }>(sql`
    UPDATE hosts SET
      failing_since = CASE WHEN ack.failed = '[]' THEN NULL ELSE COALESCE(failing_since, ${now}) END,
      applied_rev = ack.rev, applied_sha256 = ack.sha256, applied_results = ack.results,
      applied_at = ${now}, last_seen_at = ${now}
    FROM ${rows} AS ack
    WHERE hosts.id = ack.id AND hosts.epoch = ack.epoch
    RETURNING hosts.id AS id`);
  return new Set(stored.map(({ id }) => id));
}

async function settleRevisions(tx: Transaction, acks: readonly Ack[], now: number): Promise<void> {
  if (acks.length === 0) return;
  const rows = rowsOf(
    ["id", "rev", "failed"],
    acks.map((ack) => ({ id: ack.hostId, rev: ack.rev, failed: failedOf(ack) })),
  );
  await tx.db.all(sql`
    UPDATE host_revisions SET applied_at = ${now}, failed = ack.failed FROM ${rows} AS ack
    WHERE host_id = ack.id AND host_revisions.rev <= ack.rev AND applied_at IS NULL`);
}

async function resumeProvisioning(tx: Transaction, hostIds: readonly Id<"hst">[], now: number): Promise<void> {
  if (hostIds.length === 0) return;
  const waiting = await tx.db
    .select({ lineId: t.lines.id })
    .from(t.lines)
    .where(and(inList(t.lines.exitHostId, JSON.stringify(hostIds)), keptLine, eq(t.lines.state, "provisioning")));
  if (waiting.length === 0) return;
  const keys = waiting.map(({ lineId }) => `line.provision/${lineId}`);
  await tx.db
    .update(t.jobs)
    .set({ runAt: now })
    .where(and(inList(t.jobs.dedupeKey, JSON.stringify(keys)), eq(t.jobs.state, "waiting")));
  tx.ringAt(now);
}

/** Stores what a host saw and what happened there. Answers false when the session is no longer the newest. */
export async function observe(
  ctx: Context,
  hostId: Id<"hst">,
  epoch: number,
  values: Observation,
  events: readonly HostEvent[],
): Promise<boolean> {
  const now = ctx.ports.clock.now();
  const isNewest = await transaction(ctx, async (tx) => {
    const mine = and(eq(t.hosts.id, hostId), eq(t.hosts.epoch, epoch));
    const [host] = await tx.db.select({ observed: t.hosts.observed }).from(t.hosts).where(mine);
    if (host === undefined) return false;
    await tx.db
      .update(t.hosts)
      .set({ observed: { ...host.observed, ...values }, lastSeenAt: now })
      .where(mine);
    if (events.length > 0)
      await tx.db.insert(t.hostEvents).values(
        events.map((event) => ({
          id: makeId(ctx.ports, "evt"),
          hostId,
          // A host whose clock is a day off still lands in the order things arrived.
          at: now,
          ...named(event),
          item: event.item ?? null,
        })),
      );
    return true;
  });
  if (isNewest && values.paths !== undefined) await recordProbes(ctx, hostId, values.paths);
  return isNewest;
}

/** A kind that only a newer release knows is kept under a name of its own: a host must not speak with the control plane's voice. */
function named({ kind, detail }: HostEvent): { kind: string; detail: string } {
  const known = (HOST_EVENT_KINDS as readonly string[]).includes(kind);
  return known ? { kind, detail } : { kind: "other", detail: `${kind}: ${detail}` };
}

/** Signs of life of many hosts by their sessions, a few hundred a transaction: other writes come in between. */
export async function touchSeen(ctx: Context, seen: readonly { id: Id<"hst">; epoch: number }[]): Promise<void> {
  const now = ctx.ports.clock.now();
  for (let i = 0; i < seen.length; i += 250) {
    const rows = rowsOf(["id", "epoch"], seen.slice(i, i + 250));
    await transaction(ctx, async (tx) => {
      await tx.db.all(sql`
        UPDATE hosts SET last_seen_at = ${now} FROM ${rows} AS seen
        WHERE hosts.id = seen.id AND hosts.epoch = seen.epoch`);
    });
  }
}
