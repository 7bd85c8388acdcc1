import { eq, inArray } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { isUniqueViolation, transaction } from "../../db/transaction.ts";
import { type Context, makeId, requireUser } from "../context.ts";
import { isOnline } from "../hosts/reach.ts";
import { spend } from "../rate-limit.ts";
import { freshToken } from "../secrets.ts";
import { checkFilter } from "./filter.ts";
import { CAPTURE_SLACK_MS } from "./limits.ts";
import { runCapture } from "./run.ts";
import { viewCapture } from "./views.ts";

export const captureInput = z.object({
  /** On the exit: inside the tunnel, or outside on its public side. */
  point: z.enum(["tunnel", "outside"]).default("tunnel"),
  filter: z.string().max(1024).default(""),
  seconds: z.number().int().min(1).max(300).default(60),
  maxBytes: z.number().int().min(1_000).max(1_073_741_824).default(100_000_000),
  maxPackets: z.number().int().min(1).max(100_000_000).optional(),
  /** 128 holds headers, not content. */
  snapLength: z.number().int().min(16).max(65_535).default(128),
  reason: z.string().trim().min(3).max(500),
});

const CAPTURES_AN_HOUR = 60;

type Host = typeof t.hosts.$inferSelect;

/**
 * Starts a capture on the line's exit. Its bytes leave by the exit's private address to a forward host, which passes them on;
 * never by the customer's address. Answers at once; the capture goes on in the background.
 *
 * Throws `not_found`, `bad_filter`, `host_not_online`, `no_private_path`, `capture_busy`, `rate_limited`.
 */
export async function startCapture(ctx: Context, lineId: Id<"lin">, input: z.infer<typeof captureInput>) {
  const { ports } = ctx;
  const { userId } = requireUser(ctx);
  const filter = checkFilter(input.filter);
  const { exit, forward } = await chooseHosts(ctx, lineId);
  await spend(ctx, [{ key: `capture:${userId}`, limit: CAPTURES_AN_HOUR, windowMs: 3_600_000 }]);
  const upload = await freshToken(ports, "up");
  const now = ports.clock.now();
  const row: typeof t.captures.$inferSelect = {
    id: makeId(ports, "cap"),
    lineId,
    hostId: exit.id,
    forwardHostId: forward.id,
    point: input.point,
    filter,
    reason: input.reason,
    seconds: input.seconds,
    maxBytes: input.maxBytes,
    maxPackets: input.maxPackets ?? null,
    snapLength: input.snapLength,
    state: "running",
    uploadTokenHash: upload.hash,
    stopReason: null,
    error: null,
    interface: null,
    packets: null,
    receivedByFilter: null,
    droppedByKernel: null,
    clockOffsetMs: null,
    size: null,
    sha256: null,
    requestedBy: userId,
    createdAt: now,
    stoppedAt: null,
    endedAt: null,
    deleteAt: now + ports.settings.captureKeepMs,
  };
  try {
    await transaction(ctx, async (tx) => {
      await tx.db.insert(t.captures).values(row);
      const deadline = now + row.seconds * 1000 + 2 * CAPTURE_SLACK_MS;
      await tx.job("capture.deadline", { captureId: row.id }, deadline, `capture.deadline/${row.id}`);
      await tx.job("capture.expire", { captureId: row.id }, row.deleteAt, `capture.expire/${row.id}`);
      await tx.audit("capture.start", row.id, null, viewCapture(row));
    });
  } catch (error) {
    if (isUniqueViolation(error, "captures.host_id")) throw new AppError("capture_busy");
    throw error;
  }
  ports.background(runCapture(ctx, row, { exit, forward }, upload.token));
  return viewCapture(row);
}

/** The line's exit, and an online forward host that it reaches by a private network. */
async function chooseHosts(ctx: Context, lineId: Id<"lin">): Promise<{ exit: Host; forward: Host }> {
  const { ports } = ctx;
  const db = ports.db.read;
  const [found] = await db
    .select({ exit: t.hosts })
    .from(t.lines)
    .leftJoin(t.hosts, eq(t.hosts.id, t.lines.exitHostId))
    .where(eq(t.lines.id, lineId));
  if (found === undefined) throw new AppError("not_found");
  const { exit } = found;
  const now = ports.clock.now();
  if (exit === null || !isOnline(exit, now)) throw new AppError("host_not_online");
  const forwards = await db
    .select()
    .from(t.hosts)
    .where(inArray(t.hosts.role, ["forward"]));
  const forward = forwards.find(
    (host) =>
      host.approved &&
      host.privateAddress !== null &&
      host.privateNetwork !== null &&
      host.privateNetwork === exit.privateNetwork &&
      isOnline(host, now),
  );
  if (forward === undefined) throw new AppError("no_private_path");
  return { exit, forward };
}
