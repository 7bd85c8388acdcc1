import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import { CAPTURE_STATES, type captures } from "../../db/schema/index.ts";
import { instantView, iso } from "../views.ts";

export const captureView = z.object({
  id: idSchema("cap"),
  lineId: idSchema("lin"),
  hostId: idSchema("hst"),
  viaHostId: idSchema("hst"),
  point: z.enum(["tunnel", "outside"]),
  filter: z.string(),
  reason: z.string(),
  seconds: z.number().int(),
  maxBytes: z.number().int(),
  maxPackets: z.number().int().nullable(),
  snapLength: z.number().int(),
  state: z.enum(CAPTURE_STATES),
  /** Which limit ended it. */
  stopReason: z.string().nullable(),
  error: z.string().nullable(),
  interface: z.string().nullable(),
  packets: z.number().int().nullable(),
  receivedByFilter: z.number().int().nullable(),
  droppedByKernel: z.number().int().nullable(),
  clockOffsetMs: z.number().int().nullable(),
  file: z.object({ size: z.number().int(), sha256: z.string(), keptUntil: instantView }).nullable(),
  createdAt: instantView,
  endedAt: instantView.nullable(),
});

export function viewCapture(row: typeof captures.$inferSelect): z.infer<typeof captureView> {
  return {
    id: row.id,
    lineId: row.lineId,
    hostId: row.hostId,
    viaHostId: row.forwardHostId,
    point: row.point,
    filter: row.filter,
    reason: row.reason,
    seconds: row.seconds,
    maxBytes: row.maxBytes,
    maxPackets: row.maxPackets,
    snapLength: row.snapLength,
    state: row.state,
    stopReason: row.stopReason,
    error: row.error,
    interface: row.interface,
    packets: row.packets,
    receivedByFilter: row.receivedByFilter,
    droppedByKernel: row.droppedByKernel,
    clockOffsetMs: row.clockOffsetMs,
    file:
      row.state === "done" && row.size !== null && row.sha256 !== null
        ? { size: row.size, sha256: row.sha256, keptUntil: iso(row.deleteAt) }
        : null,
    createdAt: iso(row.createdAt),
    endedAt: iso(row.endedAt),
  };
}
