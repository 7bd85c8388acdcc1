import { toBase64, toHex } from "../../../shared/canonical.ts";
import type { Id } from "../../../shared/ids.ts";
import {
  type CaptureResult,
  captureResultSchema,
  type TaskOutcome,
  uplinkResultSchema,
} from "../../../shared/protocol/tasks.ts";
import type * as t from "../../db/schema/index.ts";
import type { TaskEvent } from "../../ports/index.ts";
import type { Context } from "../context.ts";
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
  const signal = ports.running.start(capture.id);
  const giveUp = new AbortController();
  try {
    const result = await carry(ctx, capture, hosts, uploadToken, signal, giveUp);
    await finishCapture(ctx, capture.id, result, ports.fleet.clockOffsetMs(hosts.exit.id));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    ports.log.warn("capture failed", { capture: capture.id, why });
    await failCapture(ctx, capture.id, why).catch((e) => ports.log.error("capture", { capture: capture.id, error: e }));
  } finally {
    giveUp.abort();
    ports.running.end(capture.id);
  }
}

async function carry(
  ctx: Context,
  capture: Capture,
  { exit, forward }: { exit: Host; forward: Host },
  uploadToken: string,
  stop: AbortSignal,
  giveUp: AbortController,
): Promise<CaptureResult> {
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
    { deadlineAt, signal: giveUp.signal },
  );
  const relayEvents = relay[Symbol.asyncIterator]();
  // The exit is sent for only when the forward host knows the ticket.
  const first = await relayEvents.next();
  if (first.done) throw failure("forward", undefined);
  if (first.value.type === "end") throw failure("forward", first.value.outcome);
  const relayed = lastOf(relayEvents);

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
    { deadlineAt, signal: stop },
  );
  const outcome = await lastOf(captured[Symbol.asyncIterator]());
  if (!outcome?.ok) throw failure("exit", outcome);
  const result = captureResultSchema.parse(outcome.result);
  const relayOutcome = await relayed;
  if (!relayOutcome?.ok) throw failure("forward", relayOutcome);
  const { bytes } = uplinkResultSchema.parse(relayOutcome.result);
  const stored = await ports.captures.rawSize(capture.id);
  if (bytes !== result.bytes || stored !== result.bytes)
    throw new Error(`the exit sent ${result.bytes} bytes, the forward host passed on ${bytes}, ${stored} are stored`);
  return result;
}

/** Where a forward host uploads what it receives. */
export function uploadPath(captureId: Id<"cap">): string {
  return `/agent/captures/${captureId}/data`;
}

async function lastOf(events: AsyncIterator<TaskEvent>): Promise<TaskOutcome | undefined> {
  for (;;) {
    const next = await events.next();
    if (next.done) return undefined;
    if (next.value.type === "end") return next.value.outcome;
  }
}

function failure(who: "exit" | "forward", outcome: TaskOutcome | undefined): Error {
  if (outcome === undefined || outcome.ok) return new Error(`${who}: ended early`);
  return new Error(`${who}: ${outcome.error.code}: ${outcome.error.detail}`);
}
