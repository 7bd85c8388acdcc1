import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import { ORDER_STATES, type orders } from "../../db/schema/index.ts";
import { instantView, iso } from "../views.ts";

export const orderView = z.object({
  id: idSchema("ord"),
  userId: idSchema("usr"),
  kind: z.enum(["create"]),
  state: z.enum(ORDER_STATES),
  quoteId: idSchema("quo"),
  groupId: idSchema("grp"),
  serviceTypeIds: z.array(z.string()),
  quantity: z.number().int(),
  amountFen: z.number().int(),
  createdAt: instantView,
  payBy: instantView,
  paidAt: instantView.nullable(),
  endedAt: instantView.nullable(),
});

export function viewOrder(row: typeof orders.$inferSelect): z.infer<typeof orderView> {
  return {
    id: row.id,
    userId: row.userId,
    kind: row.kind,
    state: row.state,
    quoteId: row.quoteId,
    groupId: row.groupId,
    serviceTypeIds: row.serviceTypeIds,
    quantity: row.quantity,
    amountFen: row.amountFen,
    createdAt: iso(row.createdAt),
    payBy: iso(row.payBy),
    paidAt: iso(row.paidAt),
    endedAt: iso(row.endedAt),
  };
}
