import { and, asc, desc, eq, lt } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Context, visibleOwner } from "../context.ts";
import { usageNow } from "../usage/read.ts";
import { type PageQuery, page } from "../views.ts";
import { viewLine } from "./views.ts";

/** One line: the caller's, or anyone's for an operator, who also sees its exit and its provisioning. Throws `not_found`. */
export async function getLine(ctx: Context, id: Id<"lin">) {
  const owner = visibleOwner(ctx);
  const db = ctx.ports.db.read;
  const [row] = await db
    .select({ line: t.lines, resource: t.resources })
    .from(t.lines)
    .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
    .where(and(eq(t.lines.id, id), owner === undefined ? undefined : eq(t.lines.userId, owner)));
  if (row === undefined) throw new AppError("not_found");
  const types = await db
    .select({ id: t.lineServiceTypes.serviceTypeId })
    .from(t.lineServiceTypes)
    .where(eq(t.lineServiceTypes.lineId, id))
    .orderBy(asc(t.lineServiceTypes.serviceTypeId));
  const view = {
    ...viewLine(row.line, row.resource),
    serviceTypeIds: types.map((type) => type.id),
    ...(await usageNow(ctx, id)),
  };
  if (owner !== undefined) return view;
  const steps = await db.select().from(t.provisionSteps).where(eq(t.provisionSteps.lineId, id));
  const order = (step: t.ProvisionStep) => t.PROVISION_STEPS.indexOf(step);
  return {
    ...view,
    exitHostId: row.line.exitHostId,
    provisioning: steps
      .sort((a, b) => order(a.step) - order(b.step))
      .map(({ step, state, tries, lastError, updatedAt }) => ({
        step,
        state,
        tries,
        lastError,
        updatedAt: new Date(updatedAt).toISOString(),
      })),
  };
}

/** Lines, newest first; of one order when it is given. */
export async function listLines(ctx: Context, query: PageQuery & { orderId?: Id<"ord"> | undefined }) {
  const owner = visibleOwner(ctx);
  const rows = await ctx.ports.db.read
    .select({ id: t.lines.id, line: t.lines, resource: t.resources })
    .from(t.lines)
    .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
    .where(
      and(
        owner === undefined ? undefined : eq(t.lines.userId, owner),
        query.orderId === undefined ? undefined : eq(t.resources.orderId, query.orderId),
        query.cursor === undefined ? undefined : lt(t.lines.id, query.cursor as Id<"lin">),
      ),
    )
    .orderBy(desc(t.lines.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, ({ line, resource }) => viewLine(line, resource));
}
