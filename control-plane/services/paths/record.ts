import { and, eq, isNull } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { PathProbe } from "../../../shared/protocol/frames.ts";
import * as t from "../../db/schema/index.ts";
import type { Transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { insertEvent } from "../hosts/events.ts";
import { judge, UNJUDGED } from "./hysteresis.ts";
import { GATEWAY, nextHops } from "./next-hops.ts";
import { ADD_UP, SHORT_SPAN_MS } from "./spans.ts";

/** Of an exit, at a time: its segments are forgotten a week after they were last told of. */
const MOST_GATEWAYS = 4;

/**
 * A host told how its next hops answered: each goes into its segment's series, and may raise or clear its alarm. Targets the
 * host has no business with are left out, so that a host that lies fills no table.
 */
export async function recordProbes(
  ctx: Context,
  tx: Pick<Transaction, "db">,
  hostId: Id<"hst">,
  probes: readonly PathProbe[],
): Promise<void> {
  const hops = await nextHops(tx.db, hostId);
  let gateways = 0;
  for (const probe of probes) {
    let toHostId = hops.get(probe.target);
    if (toHostId === undefined) {
      if (!hops.has(GATEWAY) || gateways++ > 0 || !(await mayBeGateway(tx, hostId, probe.target))) continue;
      toHostId = null;
    }
    await recordProbe(ctx, tx, hostId, probe, toHostId);
  }
}

/** An exit names its gateway itself, and may change it; one that lies fills no table. */
async function mayBeGateway(tx: Pick<Transaction, "db">, hostId: Id<"hst">, target: string): Promise<boolean> {
  const known = await tx.db
    .select({ target: t.pathSegments.target })
    .from(t.pathSegments)
    .where(and(eq(t.pathSegments.hostId, hostId), isNull(t.pathSegments.toHostId)))
    .limit(MOST_GATEWAYS);
  return known.length < MOST_GATEWAYS || known.some((one) => one.target === target);
}

async function recordProbe(
  ctx: Context,
  tx: Pick<Transaction, "db">,
  hostId: Id<"hst">,
  probe: PathProbe,
  toHostId: Id<"hst"> | null,
): Promise<void> {
  // A host whose clock is a day off still lands in the order things arrived.
  const now = ctx.ports.clock.now();
  const { target, sent, received, p50Ms } = probe;
  const key = and(eq(t.pathSegments.hostId, hostId), eq(t.pathSegments.target, target));
  const [held] = await tx.db.select().from(t.pathSegments).where(key);
  const before =
    held === undefined
      ? UNJUDGED
      : {
          state: held.state,
          against: held.against,
          baselineMs: held.baselineUs === null ? null : held.baselineUs / 1000,
        };
  const { state, against, baselineMs, turned } = judge(before, { sent, received, p50Ms });
  const row = {
    hostId,
    target,
    toHostId,
    state,
    against,
    baselineUs: toUs(baselineMs),
    since: held?.state === state ? held.since : now,
    lastAt: now,
    lastSent: sent,
    lastReceived: received,
    lastP50Us: toUs(p50Ms),
  };
  await tx.db
    .insert(t.pathSegments)
    .values(row)
    .onConflictDoUpdate({ target: [t.pathSegments.hostId, t.pathSegments.target], set: row });
  await addToSeries(tx, hostId, probe, now);
  if (turned === undefined) return;
  const lost = sent - received;
  const took = p50Ms === null ? "" : `, ${Math.round(p50Ms)} ms`;
  const normal = before.baselineMs === null ? "" : ` (normally ${Math.round(before.baselineMs)} ms)`;
  const detail = `to ${toHostId ?? "its gateway"} at ${target}: ${lost} of ${sent} lost${took}${normal}`;
  await insertEvent(ctx, tx, hostId, turned === "degraded" ? "path_degraded" : "path_recovered", detail, target);
}

async function addToSeries(tx: Pick<Transaction, "db">, hostId: Id<"hst">, probe: PathProbe, now: number) {
  const { target, sent, received, minMs, p50Ms, maxMs } = probe;
  const s = t.pathSeries;
  const minUs = toUs(minMs);
  const maxUs = toUs(maxMs);
  await tx.db
    .insert(s)
    .values({
      hostId,
      target,
      span: SHORT_SPAN_MS,
      bucket: now - (now % SHORT_SPAN_MS),
      rounds: 1,
      sent,
      received,
      minUs,
      maxUs,
      answered: p50Ms === null ? 0 : 1,
      p50SumUs: toUs(p50Ms) ?? 0,
    })
    .onConflictDoUpdate({
      target: [s.hostId, s.target, s.span, s.bucket],
      set: ADD_UP,
    });
}

function toUs(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms * 1000);
}
