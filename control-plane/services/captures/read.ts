import { and, desc, eq, lt } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { cancelTasks } from "../tasks/ask.ts";
import { type PageQuery, page } from "../views.ts";
import { viewCapture } from "./views.ts";

async function find(ctx: Context, id: Id<"cap">) {
  const [row] = await ctx.ports.db.read.select().from(t.captures).where(eq(t.captures.id, id));
  if (row === undefined) throw new AppError("not_found");
  return row;
}

export async function getCapture(ctx: Context, id: Id<"cap">) {
  return viewCapture(await find(ctx, id));
}

/** Captures, newest first; of one line when it is given. */
export async function listCaptures(ctx: Context, query: PageQuery & { lineId?: Id<"lin"> | undefined }) {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.captures)
    .where(
      and(
        query.lineId === undefined ? undefined : eq(t.captures.lineId, query.lineId),
        query.cursor === undefined ? undefined : lt(t.captures.id, query.cursor as Id<"cap">),
      ),
    )
    .orderBy(desc(t.captures.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, viewCapture);
}

/** Ends a running capture early; it finishes with what it has. Throws `not_found`, `conflict` when it runs no more. */
export async function stopCapture(ctx: Context, id: Id<"cap">) {
  const row = await find(ctx, id);
  await transaction(ctx, async (tx) => {
    expectOne(
      await tx.db
        .update(t.captures)
        .set({ stoppedAt: ctx.ports.clock.now() })
        .where(and(eq(t.captures.id, id), eq(t.captures.state, "running"))),
      new AppError("conflict", "The capture is not running."),
    );
    await tx.audit("capture.stop", id, null, null);
  });
  // Once the exit was asked only its part ends, and the rest follows with what there is; before, there is nothing to keep.
  const [asked] = await ctx.ports.db.read
    .select({ id: t.tasks.id })
    .from(t.tasks)
    .where(and(eq(t.tasks.subject, id), eq(t.tasks.kind, "capture")))
    .limit(1);
  await cancelTasks(ctx, asked === undefined ? { subject: id } : { subject: id, kind: "capture" });
  return viewCapture(row);
}

/** The finished file; every download leaves an audit row. Throws `not_found`, `capture_not_ready`. */
export async function downloadCapture(ctx: Context, id: Id<"cap">) {
  const row = await find(ctx, id);
  if (row.state !== "done" || row.size === null) throw new AppError("capture_not_ready");
  await transaction(ctx, (tx) => tx.audit("capture.download", id, null, { sha256: row.sha256 }));
  return { size: row.size, name: `${id}.pcapng`, sha256: row.sha256, body: await ctx.ports.captures.open(id) };
}
