import { and, eq, inArray, isNull, lt, lte, sql } from "drizzle-orm";
import { canonicalJson } from "../../../shared/canonical.ts";
import type { Id } from "../../../shared/ids.ts";
import {
  type HelloFrame,
  HOST_EVENT_KINDS,
  type HostEvent,
  type Observation,
} from "../../../shared/protocol/frames.ts";
import { inList, keptLine } from "../../db/indexed.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { recordProbes } from "../paths/record.ts";
import { insertEvent } from "./events.ts";

/**
 * What a host reports over its link. Every write is scoped to the session's host and epoch, so a session that was
 * superseded, or a host that lies, changes nothing else.
 */

/**
 * A host that proved its identity joins with this epoch. The newest epoch wins: answers false when one as new has joined
 * before, together with the epoch held.
 */
export async function joinHost(
  ctx: Context,
  hello: HelloFrame,
): Promise<{ joined: true } | { joined: false; epoch: number }> {
  const now = ctx.ports.clock.now();
  // What it took and could not apply whole counts too: it refuses anything older than that.
  const newest = Math.max(hello.applied?.rev ?? -1, hello.accepted?.rev ?? -1);
  return transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.hosts)
      .set({
        epoch: hello.epoch,
        version: hello.version,
        bootId: hello.bootId,
        linkedAt: now,
        linkVia: hello.via ?? null,
        lastSeenAt: now,
        joinedAt: now,
        state: sql`CASE WHEN ${t.hosts.state} = 'offline' THEN 'online' ELSE ${t.hosts.state} END`,
        // What the host says it holds is its own proof from before; it is verified again with the next ack.
        appliedRev: hello.applied?.rev ?? null,
        // A control plane restored from a backup is behind its hosts, and they refuse what is older than they hold.
        desiredRev: sql`MAX(${t.hosts.desiredRev}, ${newest + 1} * (${t.hosts.desiredRev} < ${newest}))`,
        appliedSha256: hello.applied?.sha256 ?? null,
      })
      .where(and(eq(t.hosts.id, hello.hostId), lt(t.hosts.epoch, hello.epoch)));
    if (rowsAffected === 1) {
      await noteUnderstood(tx, hello);
      const holds = hello.applied === null ? "no state" : `revision ${hello.applied.rev}`;
      await insertEvent(ctx, tx, hello.hostId, "link_up", `version ${hello.version}, holds ${holds}`);
      return { joined: true as const };
    }
    const [row] = await tx.db.select({ epoch: t.hosts.epoch }).from(t.hosts).where(eq(t.hosts.id, hello.hostId));
    return { joined: false as const, epoch: row?.epoch ?? 0 };
  });
}

/** An upgraded agent may be sent more than before, which is another state. */
async function noteUnderstood(tx: Transaction, hello: HelloFrame): Promise<void> {
  const understands = hello.understands === undefined ? null : canonicalJson(hello.understands);
  const { rowsAffected } = await tx.db
    .update(t.hosts)
    .set({ understands })
    .where(and(eq(t.hosts.id, hello.hostId), sql`${t.hosts.understands} IS NOT ${understands}`));
  if (rowsAffected === 1)
    await tx.touchHosts([hello.hostId], `its agent, version ${hello.version}, understands other kinds of items`);
}

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

export type Ack = { rev: number; sha256: string; results: t.ItemResult[] };

/**
 * The host verified a revision. Answers false when the session is no longer the newest. A line that waits for this host
 * to be provisioned goes on at once.
 */
export async function acknowledge(ctx: Context, hostId: Id<"hst">, epoch: number, ack: Ack): Promise<boolean> {
  const now = ctx.ports.clock.now();
  const failed = ack.results.filter((result) => !result.ok).map((result) => result.item);
  return transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.hosts)
      .set({
        failingSince: failed.length === 0 ? null : sql`COALESCE(${t.hosts.failingSince}, ${now})`,
        appliedRev: ack.rev,
        appliedSha256: ack.sha256,
        appliedResults: ack.results,
        appliedAt: now,
        lastSeenAt: now,
      })
      .where(and(eq(t.hosts.id, hostId), eq(t.hosts.epoch, epoch)));
    if (rowsAffected !== 1) return false;
    await tx.db
      .update(t.hostRevisions)
      .set({ appliedAt: now, failed })
      .where(
        and(eq(t.hostRevisions.hostId, hostId), lte(t.hostRevisions.rev, ack.rev), isNull(t.hostRevisions.appliedAt)),
      );
    const waiting = await tx.db
      .select({ lineId: t.lines.id })
      .from(t.lines)
      .where(and(eq(t.lines.exitHostId, hostId), keptLine, eq(t.lines.state, "provisioning")));
    if (waiting.length > 0) {
      const keys = waiting.map(({ lineId }) => `line.provision/${lineId}`);
      await tx.db
        .update(t.jobs)
        .set({ runAt: now })
        .where(and(inArray(t.jobs.dedupeKey, keys), eq(t.jobs.state, "waiting")));
      tx.ringAt(now);
    }
    return true;
  });
}

/** Stores what a host saw and what happened there. */
export async function observe(
  ctx: Context,
  hostId: Id<"hst">,
  epoch: number,
  values: Observation,
  events: readonly HostEvent[],
): Promise<boolean> {
  const now = ctx.ports.clock.now();
  return transaction(ctx, async (tx) => {
    const mine = and(eq(t.hosts.id, hostId), eq(t.hosts.epoch, epoch));
    const [host] = await tx.db.select({ observed: t.hosts.observed }).from(t.hosts).where(mine);
    if (host === undefined) return false;
    await tx.db
      .update(t.hosts)
      .set({ observed: { ...host.observed, ...values }, lastSeenAt: now })
      .where(mine);
    if (values.paths !== undefined) await recordProbes(ctx, tx, hostId, values.paths);
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
}

/** A kind that only a newer release knows is kept under a name of its own: a host must not speak with the control plane's voice. */
function named({ kind, detail }: HostEvent): { kind: string; detail: string } {
  const known = (HOST_EVENT_KINDS as readonly string[]).includes(kind);
  return known ? { kind, detail } : { kind: "other", detail: `${kind}: ${detail}` };
}

/** Signs of life of many hosts, a few hundred a transaction: other writes come in between. */
export async function touchSeen(ctx: Context, hostIds: readonly Id<"hst">[]): Promise<void> {
  const lastSeenAt = ctx.ports.clock.now();
  for (let i = 0; i < hostIds.length; i += 250) {
    const ids = JSON.stringify(hostIds.slice(i, i + 250));
    await transaction(ctx, async (tx) => {
      await tx.db.update(t.hosts).set({ lastSeenAt }).where(inList(t.hosts.id, ids));
    });
  }
}
