import { and, eq, isNull, sql } from "drizzle-orm";
import { AppError } from "../../shared/errors.ts";
import type { Id } from "../../shared/ids.ts";
import type { JobKind, JobPayload } from "../jobs/kinds.ts";
import type { Db } from "../ports/index.ts";
import { actorName, type Context, makeId } from "../services/context.ts";
import { inList } from "./indexed.ts";
import { recordRevisions, type Touched } from "./revisions.ts";
import * as t from "./schema/index.ts";

/** What changes for a host, in words: the same for all of them, or one sentence each. */
export type Change = string | ((hostId: Id<"hst">) => string);

/** One write transaction with what belongs into it: its audit rows, its jobs, the revisions of the hosts it touches. */
export interface Transaction {
  readonly db: Db;
  /** Records who did what to what. `before` and `after` hold no secrets. */
  audit(action: string, subject: string, before: unknown, after: unknown): Promise<void>;
  /** Adds a job to the outbox. The dedupe key names the cause; a second job of one cause is not added. */
  job<K extends JobKind>(kind: K, payload: JobPayload<K>, runAt: number, dedupeKey: string): Promise<void>;
  /**
   * Bumps the desired revision of these hosts, and answers the new ones. They are woken after the commit.
   *
   * @param change what changes for the host, in words for operators
   */
  touchHosts(hostIds: readonly Id<"hst">[], change: Change): Promise<Map<Id<"hst">, number>>;
  /** Runs due jobs as soon as this commits. */
  ringAt(runAt: number): void;
}

/**
 * The one way to change the database. Commits when `fn` returns, rolls back when it throws; hosts and job runner are
 * woken only after the commit. What `fn` returns is the answer kept for the request's Idempotency-Key, if it has one.
 */
export async function transaction<T>(ctx: Context, fn: (tx: Transaction) => Promise<T>): Promise<T> {
  const { ports } = ctx;
  const touched: Touched = new Map();
  let ring: number | undefined;
  const ringAt = (runAt: number) => {
    ring = Math.min(ring ?? runAt, runAt);
  };

  const result = await ports.db.write(async (db) => {
    const causes: t.RevisionCause[] = [];
    const answer = await fn({
      db,
      ringAt,
      async audit(action, subject, before, after) {
        causes.push({ action, subject });
        await db.insert(t.auditLog).values({
          id: makeId(ports, "aud"),
          at: ports.clock.now(),
          actor: actorName(ctx.actor),
          action,
          subject,
          before,
          after,
          requestId: ctx.requestId ?? null,
        });
      },
      async job(kind, payload, runAt, dedupeKey) {
        await db
          .insert(t.jobs)
          .values({
            id: makeId(ports, "job"),
            kind,
            payload,
            runAt,
            dedupeKey,
            state: "waiting",
            attempts: 0,
            createdAt: ports.clock.now(),
          })
          .onConflictDoNothing();
        ringAt(runAt);
      },
      async touchHosts(hostIds, change) {
        const ids = [...new Set(hostIds)];
        if (ids.length === 0) return new Map();
        // Written out: every change makes this statement, and building it took longer than running it.
        const rows = await db.all<{ id: Id<"hst">; rev: number }>(
          sql`UPDATE hosts SET desired_rev = desired_rev + 1 WHERE ${inList(t.hosts.id, JSON.stringify(ids))} RETURNING id, desired_rev AS rev`,
        );
        for (const { id, rev } of rows) {
          const changes = touched.get(id)?.changes ?? [];
          touched.set(id, { rev, changes: [...changes, typeof change === "string" ? change : change(id)] });
        }
        return new Map(rows.map((row) => [row.id, row.rev]));
      },
    });
    await recordRevisions(ports, db, touched, { actor: actorName(ctx.actor), requestId: ctx.requestId, causes });
    if (ctx.idempotency !== undefined) await keepAnswer(ctx, db, answer);
    return answer;
  });

  if (touched.size > 0) ports.fleet.wake([...touched.keys()]);
  if (ring !== undefined) ports.jobBell.ring(ring);
  return result;
}

async function keepAnswer(ctx: Context, db: Db, answer: unknown): Promise<void> {
  const claim = ctx.idempotency;
  if (claim === undefined || ctx.actor.kind !== "user") return;
  const { rowsAffected } = await db
    .update(t.idempotencyKeys)
    .set({ status: claim.status, response: JSON.stringify(answer) })
    .where(
      and(
        eq(t.idempotencyKeys.userId, ctx.actor.userId),
        eq(t.idempotencyKeys.key, claim.key),
        eq(t.idempotencyKeys.leaseUntil, claim.leaseUntil),
        isNull(t.idempotencyKeys.response),
      ),
    );
  // Another request took the key over after our lease ran out: it does the work, we do nothing.
  if (rowsAffected !== 1) throw new AppError("idempotency_in_flight");
}

/**
 * For conditional updates: `row count is 1` or the error. The row count is the proof that this caller, and no other,
 * made the change.
 */
export function expectOne(result: { rowsAffected: number }, otherwise: AppError): void {
  if (result.rowsAffected !== 1) throw otherwise;
}

/** True when an error, or what caused it, is a refused unique constraint (of that index or column list, if given). */
export function isUniqueViolation(error: unknown, naming?: string): boolean {
  return constraintMessages(error).some(
    (message) => message.includes("UNIQUE constraint failed") && (naming === undefined || message.includes(naming)),
  );
}

/** True when one of our triggers refused a statement with this message. */
export function isRefusedByTrigger(error: unknown, message: string): boolean {
  return constraintMessages(error).some((text) => text.includes(message));
}

function constraintMessages(error: unknown): string[] {
  const messages: string[] = [];
  for (let e = error; e instanceof Error; e = e.cause) messages.push(e.message);
  return messages;
}
