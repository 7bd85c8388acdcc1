import { and, asc, eq, inArray } from "drizzle-orm";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { decide } from "./decide.ts";
import { advance, countHosts, type Rollout, requireRollout } from "./rows.ts";

/** A host has so long for the download, beside its trial. */
export const FETCH_MS = 15 * 60_000;
/** Candidates looked at in one turn. */
const MOST_CANDIDATES = 1000;

type Host = typeof t.hosts.$inferSelect;

/**
 * Takes hosts whose turn it is out of each active rollout, of those linked to this process. Two processes may do this at
 * once: each takes under the same count, in one transaction.
 */
export async function claimHosts(ctx: Context): Promise<void> {
  const db = ctx.ports.db.read;
  const active = await db.select().from(t.rollouts).where(inArray(t.rollouts.state, t.ACTIVE_ROLLOUT_STATES));
  for (const seen of active) {
    const { id } = seen;
    // Mostly there is nothing to take: look without taking the writer.
    if (decide(seen, await countHosts(db, id), ctx.ports.clock.now()).room === 0) continue;
    const linked = await linkedCandidates(ctx, id);
    if (linked.length === 0) continue;
    await transaction(ctx, async (tx) => {
      const rollout = await requireRollout(tx.db, id);
      const { room, canary } = await advance(ctx, tx, rollout);
      const mine = linked.filter((one) => one.canary === canary).slice(0, room);
      for (const { host } of mine) await claim(ctx, tx, rollout, host);
    });
  }
}

async function linkedCandidates(ctx: Context, id: Rollout["id"]): Promise<{ canary: boolean; host: Host }[]> {
  const { db, fleet } = ctx.ports;
  const rows = await db.read
    .select({ canary: t.rolloutHosts.canary, host: t.hosts })
    .from(t.rolloutHosts)
    .innerJoin(t.hosts, eq(t.hosts.id, t.rolloutHosts.hostId))
    .where(
      and(
        eq(t.rolloutHosts.rolloutId, id),
        eq(t.rolloutHosts.state, "pending"),
        inArray(t.hosts.state, ["online", "draining"]),
      ),
    )
    .orderBy(asc(t.rolloutHosts.hostId))
    .limit(MOST_CANDIDATES);
  return rows.filter(({ host }) => fleet.isLinked(host.id));
}

async function claim(ctx: Context, tx: Transaction, rollout: Rollout, host: Host): Promise<void> {
  const now = ctx.ports.clock.now();
  const sent = {
    state: "sent" as const,
    attempt: makeId(ctx.ports, "tsk"),
    fromVersion: host.version,
    failedBefore: failedItems(host),
    sentAt: now,
    deadlineAt: now + FETCH_MS + rollout.trialS * 1000,
    error: null,
    lastWords: null,
  };
  const { rowsAffected } = await tx.db
    .update(t.rolloutHosts)
    .set(sent)
    .where(
      and(
        eq(t.rolloutHosts.rolloutId, rollout.id),
        eq(t.rolloutHosts.hostId, host.id),
        eq(t.rolloutHosts.state, "pending"),
      ),
    );
  // Another process was first, or it was cancelled.
  if (rowsAffected !== 1) return;
  const after = { state: "sent", version: rollout.version, attempt: sent.attempt, from: host.version };
  await tx.audit("rollout.sent", rollout.id, { hostId: host.id, state: "pending" }, after);
}

/** Items of the host's state that are not as they should be. */
export function failedItems(host: Host): string[] {
  return (host.appliedResults ?? []).flatMap((result) => (result.ok ? [] : [result.item]));
}
