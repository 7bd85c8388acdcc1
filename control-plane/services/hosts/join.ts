import { sql } from "drizzle-orm";
import { canonicalJson } from "../../../shared/canonical.ts";
import type { Id } from "../../../shared/ids.ts";
import type { HelloFrame } from "../../../shared/protocol/frames.ts";
import { inList } from "../../db/indexed.ts";
import { rowsOf } from "../../db/prepared.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { insertEvents } from "./events.ts";
import { rounds } from "./rounds.ts";

export type Joined = { joined: true } | { joined: false; epoch: number };

/**
 * Hosts that proved their identity join with these epochs, in this order and all in one transaction. The newest epoch wins: one
 * that is no newer than what its host joined with before is answered with the epoch held. Answers for each.
 */
export async function joinHosts(ctx: Context, hellos: readonly HelloFrame[]): Promise<Joined[]> {
  if (hellos.length === 0) return [];
  return transaction(ctx, async (tx) => {
    const joined = new Set<HelloFrame>();
    for (const round of rounds(hellos, (hello) => hello.hostId)) {
      const ids = await joinRound(ctx, tx, round);
      const these = round.filter((hello) => ids.has(hello.hostId));
      await noteUnderstood(tx, these);
      for (const hello of these) joined.add(hello);
    }
    await insertEvents(
      ctx,
      tx,
      [...joined].map(({ hostId, version, applied }) => {
        const holds = applied === null ? "no state" : `revision ${applied.rev}`;
        return { hostId, kind: "link_up", detail: `version ${version}, holds ${holds}` };
      }),
    );
    const held = await epochsOf(
      tx,
      hellos.filter((hello) => !joined.has(hello)).map((hello) => hello.hostId),
    );
    return hellos.map((hello) =>
      joined.has(hello) ? { joined: true } : { joined: false, epoch: held.get(hello.hostId) ?? 0 },
    );
  });
}

/** Answers which hosts joined. */
async function joinRound(ctx: Context, tx: Transaction, hellos: readonly HelloFrame[]): Promise<Set<string>> {
  const now = ctx.ports.clock.now();
  const rows = rowsOf(
    ["id", "epoch", "version", "boot_id", "via", "rev", "sha256", "newest"],
    hellos.map(({ hostId, epoch, version, bootId, via, applied, accepted }) => ({
      id: hostId,
      epoch,
      version,
      boot_id: bootId,
      via: via ?? null,
      // What the host says it holds is its own proof from before; it is verified again with the next ack.
      rev: applied?.rev ?? null,
      sha256: applied?.sha256 ?? null,
      // What it took and could not apply whole counts too: it refuses anything older than that.
      newest: Math.max(applied?.rev ?? -1, accepted?.rev ?? -1),
    })),
  );
  // A control plane restored from a backup is behind its hosts, and they refuse what is older than they hold.
  const joined = await tx.db.all<{ id: string }>(sql`
    UPDATE hosts SET
      epoch = hello.epoch, version = hello.version, boot_id = hello.boot_id, link_via = hello.via,
      linked_at = ${now}, last_seen_at = ${now}, joined_at = ${now},
      state = CASE WHEN hosts.state = 'offline' THEN 'online' ELSE hosts.state END,
      applied_rev = hello.rev, applied_sha256 = hello.sha256,
      desired_rev = MAX(desired_rev, (hello.newest + 1) * (desired_rev < hello.newest))
    FROM ${rows} AS hello
    WHERE hosts.id = hello.id AND hosts.epoch < hello.epoch
    RETURNING hosts.id AS id`);
  return new Set(joined.map(({ id }) => id));
}

/** An upgraded agent may be sent more than before, which is another state. */
async function noteUnderstood(tx: Transaction, hellos: readonly HelloFrame[]): Promise<void> {
  if (hellos.length === 0) return;
  const rows = rowsOf(
    ["id", "understands"],
    hellos.map(({ hostId, understands }) => ({
      id: hostId,
      understands: understands === undefined ? null : canonicalJson(understands),
    })),
  );
  const others = await tx.db.all<{ id: Id<"hst"> }>(sql`
    UPDATE hosts SET understands = hello.understands FROM ${rows} AS hello
    WHERE hosts.id = hello.id AND hosts.understands IS NOT hello.understands
    RETURNING hosts.id AS id`);
  const versions = new Map(hellos.map(({ hostId, version }) => [hostId, version]));
  await tx.touchHosts(
    others.map(({ id }) => id),
    (id) => `its agent, version ${versions.get(id)}, understands other kinds of items`,
  );
}

async function epochsOf(tx: Transaction, hostIds: readonly Id<"hst">[]): Promise<Map<Id<"hst">, number>> {
  if (hostIds.length === 0) return new Map();
  const rows = await tx.db
    .select({ id: t.hosts.id, epoch: t.hosts.epoch })
    .from(t.hosts)
    .where(inList(t.hosts.id, JSON.stringify(hostIds)));
  return new Map(rows.map(({ id, epoch }) => [id, epoch]));
}
