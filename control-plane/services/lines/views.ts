import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import {
  LINE_STATES,
  LINE_TYPES,
  type lines,
  PROVISION_STEPS,
  RESOURCE_STATES,
  type resources,
} from "../../db/schema/index.ts";
import { TUNNEL } from "../hosts/desired-state.ts";
import { instantView, iso } from "../views.ts";

export const resourceView = z.object({
  id: idSchema("res"),
  orderId: idSchema("ord"),
  kind: z.enum(["line"]),
  state: z.enum(RESOURCE_STATES),
  groupId: idSchema("grp"),
  startsAt: instantView,
  endsAt: instantView,
});

export function viewResource(row: typeof resources.$inferSelect): z.infer<typeof resourceView> {
  const { id, orderId, kind, state, groupId } = row;
  return { id, orderId, kind, state, groupId, startsAt: iso(row.startsAt), endsAt: iso(row.endsAt) };
}

export const lineView = z.object({
  id: idSchema("lin"),
  resource: resourceView,
  sourceRegionId: z.string(),
  destinationRegionId: z.string(),
  lineType: z.enum(LINE_TYPES),
  state: z.enum(LINE_STATES),
  eip: z.string().nullable(),
  /** Of the tunnel. */
  mtu: z.number().int(),
  createdAt: instantView,
});

/** Up is from the client, down to it, both with WireGuard's own bytes. */
export const usageDayView = z.object({
  /** A day in +08:00, as `2026-11-22`. */
  day: z.iso.date(),
  upBytes: z.number().int(),
  downBytes: z.number().int(),
  /** Packets to destinations that are not on the whitelist, and questions for names that are not. */
  deniedPackets: z.number().int(),
  deniedNames: z.number().int(),
});

/** What operators see more of a line: its exit, and how far its provisioning has come. */
export const lineDetailView = lineView.extend({
  serviceTypeIds: z.array(z.string()),
  /** The client's last handshake with the exit; a client that is there makes one every two minutes. */
  clientLastSeenAt: instantView.nullable(),
  /** The open connection, as its exit last told; bytes are at most half a minute old. */
  connection: z
    .object({
      id: idSchema("con"),
      openedAt: instantView,
      upBytes: z.number().int(),
      downBytes: z.number().int(),
      lastHandshakeAt: instantView.nullable(),
      /** When something of the client's was last told of. */
      lastBytesAt: instantView.nullable(),
    })
    .nullable(),
  today: usageDayView,
  exitHostId: idSchema("hst").nullable().optional(),
  provisioning: z
    .array(
      z.object({
        step: z.enum(PROVISION_STEPS),
        state: z.enum(["pending", "done", "failed", "undone"]),
        tries: z.number().int(),
        lastError: z.string().nullable(),
        updatedAt: instantView,
      }),
    )
    .optional(),
});

export function viewLine(
  line: typeof lines.$inferSelect,
  resource: typeof resources.$inferSelect,
): z.infer<typeof lineView> {
  const { id, sourceRegionId, destinationRegionId, lineType, state, eip, mtu } = line;
  return {
    id,
    resource: viewResource(resource),
    sourceRegionId,
    destinationRegionId,
    lineType,
    state,
    eip,
    mtu: mtu ?? TUNNEL.mtu,
    createdAt: iso(line.createdAt),
  };
}
