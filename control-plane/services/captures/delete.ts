import { and, eq, inArray } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";

/** Customers' packets are not kept longer than they must be: the file goes, the record stays. */
export async function deleteCapture(ctx: Context, id: Id<"cap">): Promise<void> {
  // The file first: a crash in between leaves a record without a file, and the job runs again.
  await ctx.ports.captures.remove(id);
  await transaction(ctx, async (tx) => {
    const { rowsAffected } = await tx.db
      .update(t.captures)
      .set({ state: "deleted" })
      .where(and(eq(t.captures.id, id), inArray(t.captures.state, ["done", "failed"])));
    if (rowsAffected === 1) await tx.audit("capture.delete", id, null, { state: "deleted" });
  });
}
