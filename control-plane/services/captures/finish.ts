import { and, eq } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import { pcapToPcapng } from "../../../shared/pcapng.ts";
import type { CaptureResult } from "../../../shared/protocol/tasks.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";

/** All bytes are stored: writes the pcapng file with its counts, then marks the capture done. */
export async function finishCapture(
  ctx: Context,
  id: Id<"cap">,
  result: CaptureResult,
  clockOffsetMs: number | undefined,
): Promise<void> {
  const { ports } = ctx;
  const [capture] = await ports.db.read.select().from(t.captures).where(eq(t.captures.id, id));
  if (capture?.state !== "running") return;
  const file = pcapToPcapng(ports.captures.readRaw(id), {
    captureId: id,
    comment: capture.reason,
    clockOffsetNs: BigInt(clockOffsetMs ?? 0) * 1_000_000n,
    interface: { name: result.interface, description: `exit, ${capture.point}`, filter: capture.filter },
    stats: { received: result.receivedByFilter, dropped: result.droppedByKernel },
  });
  const { size, sha256 } = await ports.captures.finish(id, file);
  const kept = await transaction(ctx, async (tx) => {
    const done = {
      state: "done" as const,
      stopReason: result.stopReason,
      interface: result.interface,
      packets: result.packets,
      receivedByFilter: result.receivedByFilter,
      droppedByKernel: result.droppedByKernel,
      clockOffsetMs: clockOffsetMs ?? null,
      size,
      sha256,
      endedAt: ports.clock.now(),
    };
    const { rowsAffected } = await tx.db
      .update(t.captures)
      .set(done)
      .where(and(eq(t.captures.id, id), eq(t.captures.state, "running")));
    if (rowsAffected === 1) await tx.audit("capture.done", id, { state: "running" }, done);
    return rowsAffected === 1;
  });
  // Its deadline came first and it counts as failed: customers' packets are not kept for that.
  if (!kept) await ports.captures.remove(id);
}

/** The capture came to nothing; what was stored of it is dropped. Does nothing to one that has ended. */
export async function failCapture(ctx: Context, id: Id<"cap">, why: string): Promise<void> {
  const { ports } = ctx;
  const failed = await transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.captures)
      .set({ state: "failed", error: why.slice(0, 500), endedAt: ports.clock.now() })
      .where(and(eq(t.captures.id, id), eq(t.captures.state, "running")));
    if (rowsAffected === 1) await tx.audit("capture.failed", id, { state: "running" }, { state: "failed", why });
    return rowsAffected === 1;
  });
  if (failed) await ports.captures.remove(id);
}
