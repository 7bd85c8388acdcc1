import { and, max, ne, sql } from "drizzle-orm";
import { businessDay } from "../../../shared/calendar.ts";
import type { Id } from "../../../shared/ids.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
import { inList } from "../../db/indexed.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Db } from "../../ports/index.ts";
import type { Context } from "../context.ts";

/** What one session of a host told of usage. */
export type UsageReport = {
  hostId: Id<"hst">;
  epoch: number;
  /** When it arrived: what it adds belongs to that business day. */
  at: number;
  /** The host's clock minus ours, ms. */
  clockOffsetMs: number;
  usage: NonNullable<Observation["usage"]> | undefined;
  ended: NonNullable<Observation["usageEnded"]> | undefined;
};

/** One count of a host as it told it. */
type Told = {
  hostId: Id<"hst">;
  at: number;
  life: string;
  first: number;
  second: number;
  /** Whose it is: a peer's key, or null for what the tunnel's whitelist refused. */
  publicKey: string | null;
  handshakeAt: number | null;
};

/**
 * Counts that one transaction takes, or one report's if it has more: enough to be cheap, few enough that other writers do not wait
 * long, and that six values of each stay below the 32,766 a statement of SQLite has.
 */
const COUNTS_AT_ONCE = 2_000;
/**
 * Counts kept of a host, those told last: several times what one report has. A host that makes up names for them fills no table,
 * and an honest one tells of no count again that it has not told of for so long.
 */
const METERS_A_HOST = 4_096;
/** A count that stands still is noted as told this often, so that it is not swept while it is. */
const TOLD_EVERY_MS = 3_600_000;
/** A sum that lies reach stays one that numbers hold exactly. */
const MOST = 2 ** 52;

/**
 * Adds what hosts told to the usage of lines and connections: of each count what it has grown since the last time, in
 * one transaction with the figure that was added up to. A report of a session that is no longer the newest, or of a
 * peer that is on no line of that exit, changes nothing. Answers how many counts had grown.
 */
export async function recordUsage(ctx: Context, reports: readonly UsageReport[]): Promise<number> {
  let grown = 0;
  for (const some of batches(reports)) grown += await transaction(ctx, ({ db }) => record(db, some));
  return grown;
}

function batches(reports: readonly UsageReport[]): UsageReport[][] {
  const all: UsageReport[][] = [];
  let room = -1;
  for (const report of reports) {
    const { usage, ended } = report;
    const counts = (usage?.peers.length ?? 0) + (usage?.denied.length ?? 0) + (ended?.length ?? 0);
    if (counts > room) {
      room = COUNTS_AT_ONCE;
      all.push([]);
    }
    room -= counts;
    all.at(-1)?.push(report);
  }
  return all;
}

async function record(db: Db, reports: readonly UsageReport[]): Promise<number> {
  const told = await newest(db, reports);
  if (told.length === 0) return 0;
  const hostIds = [...new Set(told.map(({ hostId }) => hostId))];
  const metered = await db
    .select()
    .from(t.usageMeters)
    .where(inList(t.usageMeters.life, JSON.stringify(told.map(({ life }) => life))));
  const meters = new Map(metered.map((meter) => [`${meter.hostId} ${meter.life}`, meter]));
  const connections = await connectionsOf(db, told);
  const lines = new Map(
    (
      await db
        .select({ id: t.lines.id, hostId: t.lines.exitHostId })
        .from(t.lines)
        .where(and(inList(t.lines.exitHostId, JSON.stringify(hostIds)), ne(t.lines.state, "deleted")))
    ).map((line) => [line.hostId, line.id]),
  );

  let grown = 0;
  /** Hosts that have more counts than before. */
  const crowded = new Set<Id<"hst">>();
  const news = { meters: [] as Meter[], connections: new Map<string, ConnectionUsage>(), days: new Map<string, Day>() };
  for (const one of told) {
    const key = `${one.hostId} ${one.life}`;
    const meter = meters.get(key);
    const first = Math.max(0, one.first - (meter?.first ?? 0));
    const second = Math.max(0, one.second - (meter?.second ?? 0));
    const connection = one.publicKey === null ? undefined : connections.get(`${one.hostId} ${one.publicKey}`);
    if (one.publicKey !== null && connection === undefined) continue;
    if (connection !== undefined) addToConnection(news.connections, connection, one, first, second);
    const stands = first + second === 0;
    if (stands && (meter === undefined || one.at - meter.observedAt < TOLD_EVERY_MS)) continue;
    const { hostId, life, at: observedAt } = one;
    const sum = { first: (meter?.first ?? 0) + first, second: (meter?.second ?? 0) + second };
    const updated = { hostId, life, ofPeer: one.publicKey !== null, ...sum, observedAt };
    meters.set(key, updated);
    news.meters.push(updated);
    if (meter === undefined) crowded.add(hostId);
    if (stands) continue;
    grown++;
    // Refused on an exit that has no line any more: counted as told, so that the next line does not get it.
    const lineId = one.publicKey === null ? lines.get(hostId) : connection?.lineId;
    if (lineId !== undefined) addToDay(news.days, lineId, businessDay(one.at), one.publicKey === null, first, second);
  }
  await write(db, news);
  if (crowded.size > 0) await forgetOldest(db, [...crowded]);
  return grown;
}

/** Of these hosts only the counts told last stay. */
async function forgetOldest(db: Db, hostIds: readonly Id<"hst">[]): Promise<void> {
  await db.all(sql`
    WITH crowded AS MATERIALIZED (
      SELECT host.value AS id, (
        SELECT observed_at FROM usage_meters WHERE host_id = host.value
        ORDER BY observed_at DESC LIMIT 1 OFFSET ${METERS_A_HOST}) AS last
      FROM json_each(${JSON.stringify(hostIds)}) AS host)
    DELETE FROM usage_meters WHERE rowid IN (
      SELECT m.rowid FROM crowded CROSS JOIN usage_meters AS m
      WHERE m.host_id = crowded.id AND m.observed_at <= crowded.last)`);
}

type Meter = typeof t.usageMeters.$inferSelect;
type ConnectionUsage = typeof t.connectionUsage.$inferSelect;
type Day = typeof t.lineUsage.$inferSelect;

/** What the newest sessions told, each count once. */
async function newest(db: Db, reports: readonly UsageReport[]): Promise<Told[]> {
  const rows = await db
    .select({ id: t.hosts.id, epoch: t.hosts.epoch })
    .from(t.hosts)
    .where(inList(t.hosts.id, JSON.stringify(reports.map(({ hostId }) => hostId))));
  const epochs = new Map(rows.map(({ id, epoch }) => [id, epoch]));
  return reports.flatMap(({ hostId, epoch, at, clockOffsetMs, usage, ended = [] }): Told[] => {
    if (epochs.get(hostId) !== epoch) return [];
    const base = { hostId, at, handshakeAt: null };
    return [
      ...ended.map((p) => ({ ...base, life: p.life, first: p.rxBytes, second: p.txBytes, publicKey: p.publicKey })),
      ...(usage?.peers ?? []).map((p) => ({
        ...base,
        life: p.life,
        first: p.rxBytes,
        second: p.txBytes,
        publicKey: p.publicKey,
        // A host whose clock is ahead saw nobody in the future.
        handshakeAt: p.lastHandshakeAt === null ? null : Math.min(at, Math.round(p.lastHandshakeAt - clockOffsetMs)),
      })),
      ...(usage?.denied ?? []).map((d) => ({
        ...base,
        life: d.life,
        first: d.packets,
        second: d.names,
        publicKey: null,
      })),
    ];
  });
}

/** The newest connection of each peer that was told of, on the very exit that told. */
async function connectionsOf(db: Db, told: readonly Told[]) {
  const keys = [...new Set(told.flatMap(({ publicKey }) => publicKey ?? []))];
  if (keys.length === 0) return new Map<string, { id: Id<"con">; lineId: Id<"lin"> }>();
  const hostIds = JSON.stringify([...new Set(told.map(({ hostId }) => hostId))]);
  const rows = await db
    // With one max() SQLite takes the other columns from the row that has it.
    .select({
      id: max(t.connections.id),
      lineId: t.connections.lineId,
      hostId: t.connections.exitHostId,
      publicKey: t.connections.clientPublicKey,
    })
    .from(t.connections)
    .where(and(inList(t.connections.exitHostId, hostIds), inList(t.connections.clientPublicKey, JSON.stringify(keys))))
    .groupBy(t.connections.exitHostId, t.connections.clientPublicKey);
  return new Map(
    rows.flatMap(({ id, lineId, hostId, publicKey }) =>
      id === null ? [] : [[`${hostId} ${publicKey}`, { id, lineId }] as const],
    ),
  );
}

function addToConnection(
  all: Map<string, ConnectionUsage>,
  { id, lineId }: { id: Id<"con">; lineId: Id<"lin"> },
  { at, handshakeAt }: Told,
  upBytes: number,
  downBytes: number,
): void {
  // A client that is away is sent to as well; only what it sends shows that it is there.
  const lastBytesAt = upBytes > 0 ? at : null;
  if (upBytes + downBytes === 0 && handshakeAt === null) return;
  const had = all.get(id);
  all.set(id, {
    connectionId: id,
    lineId,
    upBytes: (had?.upBytes ?? 0) + upBytes,
    downBytes: (had?.downBytes ?? 0) + downBytes,
    lastHandshakeAt: later(had?.lastHandshakeAt ?? null, handshakeAt),
    lastBytesAt: later(had?.lastBytesAt ?? null, lastBytesAt),
  });
}

const later = (a: number | null, b: number | null) => (a === null || b === null ? (a ?? b) : Math.max(a, b));

function addToDay(
  all: Map<string, Day>,
  lineId: Id<"lin">,
  day: string,
  refused: boolean,
  first: number,
  second: number,
): void {
  const key = `${lineId} ${day}`;
  const row = all.get(key) ?? { lineId, day, upBytes: 0, downBytes: 0, deniedPackets: 0, deniedNames: 0 };
  row[refused ? "deniedPackets" : "upBytes"] += first;
  row[refused ? "deniedNames" : "downBytes"] += second;
  all.set(key, row);
}

async function write(
  db: Db,
  news: { meters: Meter[]; connections: Map<string, ConnectionUsage>; days: Map<string, Day> },
): Promise<void> {
  const grow = (name: string) => sql.raw(`MIN(${name} + excluded.${name}, ${MOST})`);
  // MAX() of a null is null: one side may know nothing.
  const latest = (name: string) => sql.raw(`COALESCE(MAX(${name}, excluded.${name}), ${name}, excluded.${name})`);
  // The latest figure of a count stands last; an upsert may not meet one row twice.
  const meters = [...new Map(news.meters.map((meter) => [`${meter.hostId} ${meter.life}`, meter])).values()];
  if (meters.length > 0)
    await db
      .insert(t.usageMeters)
      .values(meters)
      .onConflictDoUpdate({
        target: [t.usageMeters.life, t.usageMeters.hostId],
        set: { first: sql`excluded.first`, second: sql`excluded.second`, observedAt: sql`excluded.observed_at` },
      });
  if (news.connections.size > 0)
    await db
      .insert(t.connectionUsage)
      .values([...news.connections.values()])
      .onConflictDoUpdate({
        target: t.connectionUsage.connectionId,
        set: {
          upBytes: grow("up_bytes"),
          downBytes: grow("down_bytes"),
          lastHandshakeAt: latest("last_handshake_at"),
          lastBytesAt: latest("last_bytes_at"),
        },
      });
  if (news.days.size > 0)
    await db
      .insert(t.lineUsage)
      .values([...news.days.values()])
      .onConflictDoUpdate({
        target: [t.lineUsage.lineId, t.lineUsage.day],
        set: {
          upBytes: grow("up_bytes"),
          downBytes: grow("down_bytes"),
          deniedPackets: grow("denied_packets"),
          deniedNames: grow("denied_names"),
        },
      });
}
