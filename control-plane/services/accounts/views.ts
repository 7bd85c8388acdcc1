import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import { CERTIFICATIONS, ROLES, type users } from "../../db/schema/index.ts";
import { instantView } from "../views.ts";

export const userView = z.object({
  id: idSchema("usr"),
  name: z.string(),
  role: z.enum(ROLES),
  state: z.enum(["active", "disabled"]),
  certification: z.enum(CERTIFICATIONS),
  ownerId: idSchema("usr").nullable(),
  createdAt: instantView,
});

export function viewUser(row: typeof users.$inferSelect): z.infer<typeof userView> {
  const { id, name, role, state, certification, ownerId, createdAt } = row;
  return { id, name, role, state, certification, ownerId, createdAt: new Date(createdAt).toISOString() };
}
