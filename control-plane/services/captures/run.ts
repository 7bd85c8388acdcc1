import { eq } from "drizzle-orm";
import { toBase64, toHex } from "../../../shared/canonical.ts";
import type { Id } from "../../../shared/ids.ts";
import {
  type CaptureResult,
  captureResultSchema,
  type TaskOutcome,
  uplinkResultSchema,
} from "../../../shared/protocol/tasks.ts";
import * as t from "../../db/schema/index.ts";
import type { TaskEvent } from "../../ports/index.ts";
import type { Context } from "../context.ts";
import { cancelTasks } from "../tasks/ask.ts";
import { failCapture, finishCapture } from "./finish.ts";
import { CAPTURE_SLACK_MS, TICKET_SLACK_BYTES } from "./limits.ts";
import { seal } from "./seal.ts";

type Capture = typeof t.captures.$inferSelect;
type Host = typeof t.hosts.$inferSelect;

/**
 * Runs one capture to its end: the forward host is given a ticket and listens, the exit captures into it. Never throws:
 * whatever goes wrong is written into the capture's row.
 */
export async function runCapture(
  ctx: Context,
  capture: Capture,
  hosts: { exit: Host; forward: Host },
  uploadToken: string,
): Promise<void> {
  const { ports } = ctx;
  const giveUp = new AbortController();
  try {
    const { result, clockOffsetMs } = await carry(ctx, capture, hosts, uploadToken, giveUp);
    await finishCapture(ctx, capture.id, result, clockOffsetMs);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    ports.log.warn("capture failed", { capture: capture.id, why });
    await failCapture(ctx, capture.id, why).catch((e) => ports.log.error("capture", { capture: capture.id, error: e }));
  } finally {
    giveUp.abort();
  }
}

async function carry(
  ctx: Context,
  capture: Capture,
  { exit, forward }: { exit: Host; forward: Host },
  uploadToken: string,
  giveUp: AbortController,
): Promise<{ result: CaptureResult; clockOffsetMs: number | undefined }> {
  const { ports } = ctx;
  const psk = toBase64(ports.random.bytes(32));
  const ticket = toHex(ports.random.bytes(16));
  const uplink = { address: forward.privateAddress ?? "", port: forward.uplinkPort };
  const deadlineAt = ports.clock.now() + capture.seconds * 1000 + CAPTURE_SLACK_MS;

  const relay = ports.fleet.runTask(
    forward.id,
    {
      kind: "uplink",
      params: {
        captureId: capture.id,
        ticket,
        sealed: seal(ports, forward.boxPublicKey, { psk, uploadToken }),
        bytes: capture.maxBytes + TICKET_SLACK_BYTES,
        uploadPath: uploadPath(capture.id),
      },
    },
    { deadlineAt, signal: giveUp.signal, subject: capture.id },
  );
  const relayEvents = relay[Symbol.asyncIterator]();
  // The exit is sent for only when the forward host knows the ticket.
  const first = await relayEvents.next();
  if (first.done) throw failure("forward", undefined);
  if (first.value.type === "end") throw failure("forward", first.value.outcome);
  const relayed = lastOf(relayEvents);
  if (await isStopped(ctx, capture.id)) throw new Error("it was stopped before it began");

  const captured = ports.fleet.runTask(
    exit.id,
    {
      kind: "capture",
      params: {
        captureId: capture.id,
        point: capture.point,
        filter: capture.filter,
        seconds: capture.seconds,
        bytes: capture.maxBytes,
        packets: capture.maxPackets,
        snapLength: capture.snapLength,
        exclude: [],
        uplink,
        ticket,
        sealed: seal(ports, exit.boxPublicKey, { psk }),
      },
    },
    { deadlineAt, signal: giveUp.signal, subject: capture.id },
  );
  const events = captured[Symbol.asyncIterator]();
  const begun = await events.next();
  // Stopped between the look above and the task's row: its stop found nothing to cancel.
  if (await isStopped(ctx, capture.id)) await cancelTasks(ctx, { subject: capture.id, kind: "capture" });
  const end = await lastOf(events, begun);
  if (!end?.outcome.ok) throw failure("exit", end?.outcome);
  const result = captureResultSchema.parse(end.outcome.result);
  const relayEnd = await relayed;
  if (!relayEnd?.outcome.ok) throw failure("forward", relayEnd?.outcome);
  const { bytes } = uplinkResultSchema.parse(relayEnd.outcome.result);
  const stored = await ports.captures.rawSize(capture.id);
  if (bytes !== result.bytes || stored !== result.bytes)
    throw new Error(`the exit sent ${result.bytes} bytes, the forward host passed on ${bytes}, ${stored} are stored`);
  return { result, clockOffsetMs: end.clockOffsetMs };
}

async function isStopped(ctx: Context, id: Id<"cap">): Promise<boolean> {
  const [row] = await ctx.ports.db.read
    .select({ state: t.captures.state, stoppedAt: t.captures.stoppedAt })
    .from(t.captures)
    .where(eq(t.captures.id, id));
  return row?.state !== "running" || row.stoppedAt !== null;
}

/** Where a forward host uploads what it receives. */
export function uploadPath(captureId: Id<"cap">): string {
  return `/agent/captures/${captureId}/data`;
}

type TaskEnd = Extract<TaskEvent, { type: "end" }>;

async function lastOf(
  events: AsyncIterator<TaskEvent>,
  first?: IteratorResult<TaskEvent>,
): Promise<TaskEnd | undefined> {
  for (let next = first ?? (await events.next()); !next.done; next = await events.next())
    if (next.value.type === "end") return next.value;
  return undefined;
}

function failure(who: "exit" | "forward", outcome: TaskOutcome | undefined): Error {
  if (outcome === undefined || outcome.ok) return new Error(`${who}: ended early`);
  return new Error(`${who}: ${outcome.error.code}: ${outcome.error.detail}`);
}
