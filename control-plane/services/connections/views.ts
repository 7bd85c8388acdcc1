import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import { CLOSE_REASONS, type connections } from "../../db/schema/index.ts";
import { instantView, iso } from "../views.ts";

export const connectionView = z.object({
  id: idSchema("con"),
  lineId: idSchema("lin"),
  state: z.enum(["active", "closed"]),
  port: z.number().int(),
  clientPublicKey: z.string(),
  openedAt: instantView,
  closedAt: instantView.nullable(),
  closeReason: z.enum(CLOSE_REASONS).nullable(),
});

export function viewConnection(row: typeof connections.$inferSelect): z.infer<typeof connectionView> {
  const { id, lineId, state, port, clientPublicKey, closeReason } = row;
  return {
    id,
    lineId,
    state,
    port,
    clientPublicKey,
    openedAt: iso(row.openedAt),
    closedAt: iso(row.closedAt),
    closeReason,
  };
}
