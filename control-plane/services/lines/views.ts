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
  createdAt: instantView,
});

/** What operators see more of a line: its exit, and how far its provisioning has come. */
export const lineDetailView = lineView.extend({
  serviceTypeIds: z.array(z.string()),
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
  const { id, sourceRegionId, destinationRegionId, lineType, state, eip } = line;
  return {
    id,
    resource: viewResource(resource),
    sourceRegionId,
    destinationRegionId,
    lineType,
    state,
    eip,
    createdAt: iso(line.createdAt),
  };
}
