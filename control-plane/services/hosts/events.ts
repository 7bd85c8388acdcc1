import { and, count, desc, eq, gt, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import { rowsOf } from "../../db/prepared.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";

/** A host's session replaced by a newer one so often within so long: two machines share one identity. */
const CLONE_AFTER = 3;
const CLONE_WINDOW_MS = 60_000;

type Kind =
  | "clock_skew"
  | "session_superseded"
  | "identity_cloned"
  | "ack_refused"
  | "state_too_large"
  | "link_up"
  | "link_down"
  | "upgrade_committed"
  | "upgrade_returned"
  | "upgrade_failed"
  | "path_degraded"
  | "path_recovered"
  | "needs_upgrade";

type NewEvent = { hostId: Id<"hst">; kind: Kind; detail: string; item?: string | null };

/** Something about a host that operators should see, as part of the caller's transaction. */
export async function insertEvent(
  ctx: Context,
  tx: Pick<Transaction, "db">,
  hostId: Id<"hst">,
  kind: Kind,
  detail: string,
  item: string | null = null,
): Promise<void> {
  await insertEvents(ctx, tx, [{ hostId, kind, detail, item }]);
}

/** The same of several hosts, in one statement. */
export async function insertEvents(
  ctx: Context,
  tx: Pick<Transaction, "db">,
  events: readonly NewEvent[],
): Promise<void> {
  if (events.length === 0) return;
  const at = ctx.ports.clock.now();
  const rows = rowsOf(
    ["id", "host", "kind", "item", "detail"],
    events.map(({ hostId, kind, detail, item = null }) => ({
      id: makeId(ctx.ports, "evt"),
      host: hostId,
      kind,
      item,
      detail,
    })),
  );
  await tx.db.all(
    sql`INSERT INTO host_events (id, host_id, at, kind, item, detail) SELECT id, host, ${at}, kind, item, detail FROM ${rows}`,
  );
}

/** Something the control plane itself noticed about a host. */
export async function recordHostEvent(ctx: Context, hostId: Id<"hst">, kind: Kind, detail: string): Promise<void> {
  ctx.ports.log.warn("host event", { hostId, kind, detail });
  await transaction(ctx, (tx) => insertEvent(ctx, tx, hostId, kind, detail));
}

/**
 * A newer session took the place of one that was alive. Once is a host that came back before its old socket died; again and
 * again is a cloned credential, and operators are told.
 */
export async function recordSuperseded(ctx: Context, hostId: Id<"hst">): Promise<void> {
  await transaction(ctx, async (tx) => {
    await insertEvent(ctx, tx, hostId, "session_superseded", "a newer session of this host replaced this one");
    const [recent] = await tx.db
      .select({ n: count() })
      .from(t.hostEvents)
      .where(
        and(
          eq(t.hostEvents.hostId, hostId),
          eq(t.hostEvents.kind, "session_superseded"),
          gt(t.hostEvents.at, ctx.ports.clock.now() - CLONE_WINDOW_MS),
        ),
      );
    if (recent === undefined || recent.n % CLONE_AFTER !== 0) return;
    const detail = `${recent.n} sessions replaced each other within a minute: is this host's identity on two machines?`;
    ctx.ports.log.error("identity cloned", { hostId, detail });
    await insertEvent(ctx, tx, hostId, "identity_cloned", detail);
  });
}

/**
 * A host should hold what its agent does not understand, and goes without. Told once for the same kinds and the same agent: in
 * one transaction, as sessions that join in a row ask at the same time.
 */
export async function recordNeedsUpgrade(ctx: Context, hostId: Id<"hst">, kinds: readonly string[]): Promise<void> {
  await transaction(ctx, async (tx) => {
    const [host] = await tx.db.select({ version: t.hosts.version }).from(t.hosts).where(eq(t.hosts.id, hostId));
    const detail = `its agent, version ${host?.version}, does not understand: ${kinds.join(", ")}`;
    const [last] = await tx.db
      .select({ detail: t.hostEvents.detail })
      .from(t.hostEvents)
      .where(and(eq(t.hostEvents.hostId, hostId), eq(t.hostEvents.kind, "needs_upgrade")))
      .orderBy(desc(t.hostEvents.id))
      .limit(1);
    if (last?.detail === detail) return;
    ctx.ports.log.warn("host event", { hostId, kind: "needs_upgrade", detail });
    await insertEvent(ctx, tx, hostId, "needs_upgrade", detail);
  });
}
