import { and, eq, isNull } from "drizzle-orm";
import { AppError } from "../../shared/errors.ts";
import * as t from "../db/schema/index.ts";
import { type Context, type IdempotencyClaim, requireUser } from "./context.ts";

/** How long a request may run before its key may be taken over (its process died). */
const LEASE_MS = 60_000;

export type ClaimOutcome =
  /** Run the verb with this claim in its context: its transaction keeps the answer. */
  | { kind: "run"; claim: IdempotencyClaim }
  /** The change was made before: answer these bytes again. */
  | { kind: "replay"; status: number; body: string };

/**
 * Claims an Idempotency-Key for a request. The answer is written in the transaction of the change itself, so a key whose
 * process died either holds the answer, or nothing was done.
 *
 * Throws `idempotency_key_reused` for another request with the same key, `idempotency_in_flight` while the first runs.
 *
 * @param requestHash SHA-256 of method, path and body
 * @param status the HTTP status the verb's answer will have
 */
export async function claimIdempotencyKey(
  ctx: Context,
  key: string,
  requestHash: string,
  status: number,
): Promise<ClaimOutcome> {
  const { userId } = requireUser(ctx);
  const now = ctx.ports.clock.now();
  return ctx.ports.db.write(async (tx) => {
    const claim = { key, leaseUntil: now + LEASE_MS, status };
    const inserted = await tx
      .insert(t.idempotencyKeys)
      .values({ userId, key, requestHash, leaseUntil: claim.leaseUntil, createdAt: now })
      .onConflictDoNothing();
    if (inserted.rowsAffected === 1) return { kind: "run", claim };

    const mine = and(eq(t.idempotencyKeys.userId, userId), eq(t.idempotencyKeys.key, key));
    const [row] = await tx.select().from(t.idempotencyKeys).where(mine);
    if (row === undefined || row.requestHash !== requestHash) throw new AppError("idempotency_key_reused");
    if (row.response !== null) return { kind: "replay", status: row.status ?? status, body: row.response };
    if (row.leaseUntil > now)
      throw new AppError("idempotency_in_flight", undefined, { retryAfterMs: row.leaseUntil - now });
    await tx.update(t.idempotencyKeys).set({ leaseUntil: claim.leaseUntil }).where(mine);
    return { kind: "run", claim };
  });
}

/** Gives a key back after its request was refused: nothing was done, so the caller may correct and try again with it. */
export async function releaseIdempotencyKey(ctx: Context, claim: IdempotencyClaim): Promise<void> {
  const { userId } = requireUser(ctx);
  await ctx.ports.db.write(async (tx) => {
    await tx
      .delete(t.idempotencyKeys)
      .where(
        and(
          eq(t.idempotencyKeys.userId, userId),
          eq(t.idempotencyKeys.key, claim.key),
          eq(t.idempotencyKeys.leaseUntil, claim.leaseUntil),
          isNull(t.idempotencyKeys.response),
        ),
      );
  });
}
