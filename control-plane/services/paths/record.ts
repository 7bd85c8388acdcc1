import { and, eq, isNull, sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { PathProbe } from "../../../shared/protocol/frames.ts";
import { inList } from "../../db/indexed.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { insertEvents } from "../hosts/events.ts";
import { judge, UNJUDGED } from "./hysteresis.ts";
import { GATEWAY, nextHops } from "./next-hops.ts";
import { ADD_UP, SHORT_SPAN_MS } from "./spans.ts";

/** Of an exit, at a time: its segments are forgotten a week after they were last told of. */
const MOST_GATEWAYS = 4;

/**
 * A host told how its next hops answered: each goes into its segment's series, and may raise or clear its alarm. Targets the
 * host has no business with are left out, so that a host that lies fills no table. A few statements, however many the probes
 * are. Never throws: a round that could not be written is logged and counted, and the next one is a minute away.
 */
export async function recordProbes(ctx: Context, hostId: Id<"hst">, probes: readonly PathProbe[]): Promise<void> {
  try {
    await transaction(ctx, (tx) => record(ctx, tx, hostId, probes));
  } catch (error) {
    ctx.ports.metrics.count("path_rounds_lost");
    ctx.ports.log.error("could not record a round of probes", { hostId, error });
  }
}

type Tx = Pick<Transaction, "db">;
type Probed = PathProbe & { toHostId: Id<"hst"> | null };

async function record(ctx: Context, tx: Tx, hostId: Id<"hst">, probes: readonly PathProbe[]): Promise<void> {
  const probed = await ofItsHops(tx, hostId, probes);
  if (probed.length === 0) return;
  // A host whose clock is a day off still lands in the order things arrived.
  const now = ctx.ports.clock.now();
  const turns = await writeSegments(tx, hostId, probed, now);
  await addToSeries(tx, hostId, probed, now);
  await insertEvents(ctx, tx, turns);
}

/** The probes of targets that the host sends to, each target's once. */
async function ofItsHops(tx: Tx, hostId: Id<"hst">, probes: readonly PathProbe[]): Promise<Probed[]> {
  const hops = await nextHops(tx.db, hostId);
  const probed = new Map<string, Probed>();
  let gateways = 0;
  for (const probe of probes) {
    let toHostId = hops.get(probe.target);
    if (toHostId === undefined) {
      if (!hops.has(GATEWAY) || gateways++ > 0 || !(await mayBeGateway(tx, hostId, probe.target))) continue;
      toHostId = null;
    }
    probed.set(probe.target, { ...probe, toHostId });
  }
  return [...probed.values()];
}

/** An exit names its gateway itself, and may change it; one that lies fills no table. */
async function mayBeGateway(tx: Tx, hostId: Id<"hst">, target: string): Promise<boolean> {
  const known = await tx.db
    .select({ target: t.pathSegments.target })
    .from(t.pathSegments)
    .where(and(eq(t.pathSegments.hostId, hostId), isNull(t.pathSegments.toHostId)))
    .limit(MOST_GATEWAYS);
  return known.length < MOST_GATEWAYS || known.some((one) => one.target === target);
}

/** Answers what turned, for the host's log. */
async function writeSegments(tx: Tx, hostId: Id<"hst">, probed: readonly Probed[], now: number) {
  const s = t.pathSegments;
  const targets = JSON.stringify(probed.map(({ target }) => target));
  const known = await tx.db
    .select()
    .from(s)
    .where(and(eq(s.hostId, hostId), inList(s.target, targets)));
  const held = new Map(known.map((segment) => [segment.target, segment]));
  const turns: Parameters<typeof insertEvents>[2][number][] = [];
  const rows = probed.map((probe) => {
    const { target, toHostId, sent, received, p50Ms } = probe;
    const before = held.get(target);
    const was = before === undefined ? UNJUDGED : judged(before);
    const { state, against, baselineMs, turned } = judge(was, { sent, received, p50Ms });
    if (turned !== undefined) {
      const kind = turned === "degraded" ? ("path_degraded" as const) : ("path_recovered" as const);
      turns.push({ hostId, kind, detail: wordsOf(probe, was.baselineMs), item: target });
    }
    return {
      hostId,
      target,
      toHostId,
      state,
      against,
      baselineUs: toUs(baselineMs),
      since: before?.state === state ? before.since : now,
      lastAt: now,
      lastSent: sent,
      lastReceived: received,
      lastP50Us: toUs(p50Ms),
    };
  });
  await tx.db
    .insert(s)
    .values(rows)
    .onConflictDoUpdate({
      target: [s.hostId, s.target],
      set: {
        toHostId: sql`excluded.to_host_id`,
        state: sql`excluded.state`,
        against: sql`excluded.against`,
        baselineUs: sql`excluded.baseline_us`,
        since: sql`excluded.since`,
        lastAt: sql`excluded.last_at`,
        lastSent: sql`excluded.last_sent`,
        lastReceived: sql`excluded.last_received`,
        lastP50Us: sql`excluded.last_p_50_us`,
      },
    });
  return turns;
}

function judged({ state, against, baselineUs }: typeof t.pathSegments.$inferSelect) {
  return { state, against, baselineMs: baselineUs === null ? null : baselineUs / 1000 };
}

function wordsOf({ target, toHostId, sent, received, p50Ms }: Probed, normalMs: number | null): string {
  const took = p50Ms === null ? "" : `, ${Math.round(p50Ms)} ms`;
  const normal = normalMs === null ? "" : ` (normally ${Math.round(normalMs)} ms)`;
  return `to ${toHostId ?? "its gateway"} at ${target}: ${sent - received} of ${sent} lost${took}${normal}`;
}

async function addToSeries(tx: Tx, hostId: Id<"hst">, probed: readonly Probed[], now: number): Promise<void> {
  const s = t.pathSeries;
  const rows = probed.map(({ target, sent, received, minMs, p50Ms, maxMs }) => ({
    hostId,
    target,
    span: SHORT_SPAN_MS,
    bucket: now - (now % SHORT_SPAN_MS),
    rounds: 1,
    sent,
    received,
    minUs: toUs(minMs),
    maxUs: toUs(maxMs),
    answered: p50Ms === null ? 0 : 1,
    p50SumUs: toUs(p50Ms) ?? 0,
  }));
  await tx.db
    .insert(s)
    .values(rows)
    .onConflictDoUpdate({ target: [s.hostId, s.target, s.span, s.bucket], set: ADD_UP });
}

function toUs(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms * 1000);
}
