import { and, inArray, max, ne, sql } from "drizzle-orm";
import { businessDay } from "../../../shared/calendar.ts";
import type { Id } from "../../../shared/ids.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
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

/** Hosts whose usage one transaction takes: enough to be cheap, few enough that other writers do not wait long. */
const HOSTS_AT_ONCE = 200;
/** A sum that lies reach stays one that numbers hold exactly. */
const MOST = 2 ** 52;

/**
 * Adds what hosts told to the usage of lines and connections: of each count what it has grown since the last time, in
 * one transaction with the figure that was added up to. A report of a session that is no longer the newest, or of a
 * peer that is on no line of that exit, changes nothing. Answers how many counts had grown.
 */
export async function recordUsage(ctx: Context, reports: readonly UsageReport[]): Promise<number> {
  let grown = 0;
  for (let i = 0; i < reports.length; i += HOSTS_AT_ONCE) {
    const some = reports.slice(i, i + HOSTS_AT_ONCE);
    grown += await transaction(ctx, ({ db }) => record(db, some));
  }
  return grown;
}

async function record(db: Db, reports: readonly UsageReport[]): Promise<number> {
  const told = await newest(db, reports);
  if (told.length === 0) return 0;
  const hostIds = [...new Set(told.map(({ hostId }) => hostId))];
  const metered = await db
    .select()
    .from(t.usageMeters)
    .where(
      inArray(
        t.usageMeters.life,
        told.map(({ life }) => life),
      ),
    );
  const meters = new Map(metered.map((meter) => [`${meter.hostId} ${meter.life}`, meter]));
  const connections = await connectionsOf(db, told);
  const lines = new Map(
    (
      await db
        .select({ id: t.lines.id, hostId: t.lines.exitHostId })
        .from(t.lines)
        .where(and(inArray(t.lines.exitHostId, hostIds), ne(t.lines.state, "deleted")))
    ).map((line) => [line.hostId, line.id]),
  );

  const news = { meters: [] as Meter[], connections: new Map<string, ConnectionUsage>(), days: new Map<string, Day>() };
  for (const one of told) {
    const key = `${one.hostId} ${one.life}`;
    const meter = meters.get(key);
    const first = Math.max(0, one.first - (meter?.first ?? 0));
    const second = Math.max(0, one.second - (meter?.second ?? 0));
    const connection = one.publicKey === null ? undefined : connections.get(`${one.hostId} ${one.publicKey}`);
    if (one.publicKey !== null && connection === undefined) continue;
    if (connection !== undefined) addToConnection(news.connections, connection, one, first, second);
    if (first + second === 0) continue;
    const { hostId, life, at: observedAt } = one;
    const sum = { first: (meter?.first ?? 0) + first, second: (meter?.second ?? 0) + second };
    const updated = { hostId, life, ofPeer: one.publicKey !== null, ...sum, observedAt };
    meters.set(key, updated);
    news.meters.push(updated);
    // Refused on an exit that has no line any more: counted as told, so that the next line does not get it.
    const lineId = one.publicKey === null ? lines.get(hostId) : connection?.lineId;
    if (lineId !== undefined) addToDay(news.days, lineId, businessDay(one.at), one.publicKey === null, first, second);
  }
  await write(db, news);
  return news.meters.length;
}

type Meter = typeof t.usageMeters.$inferSelect;
type ConnectionUsage = typeof t.connectionUsage.$inferSelect;
type Day = typeof t.lineUsage.$inferSelect;

/** What the newest sessions told, each count once. */
async function newest(db: Db, reports: readonly UsageReport[]): Promise<Told[]> {
  const rows = await db
    .select({ id: t.hosts.id, epoch: t.hosts.epoch })
    .from(t.hosts)
    .where(
      inArray(
        t.hosts.id,
        reports.map(({ hostId }) => hostId),
      ),
    );
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
  const hostIds = [...new Set(told.map(({ hostId }) => hostId))];
  const rows = await db
    // With one max() SQLite takes the other columns from the row that has it.
    .select({
      id: max(t.connections.id),
      lineId: t.connections.lineId,
      hostId: t.connections.exitHostId,
      publicKey: t.connections.clientPublicKey,
    })
    .from(t.connections)
    .where(and(inArray(t.connections.exitHostId, hostIds), inArray(t.connections.clientPublicKey, keys)))
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
