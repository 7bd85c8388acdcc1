import { and, desc, eq, lt } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { expectOne, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { instantView, iso, type PageQuery, page } from "../views.ts";

const JOB_STATES = ["waiting", "running", "done", "dead"] as const;
export const jobStateSchema = z.enum(JOB_STATES);

export const jobView = z.object({
  id: idSchema("job"),
  kind: z.string(),
  payload: z.unknown(),
  state: jobStateSchema,
  attempts: z.number().int(),
  runAt: instantView,
  lastError: z.string().nullable(),
});

function view(row: typeof t.jobs.$inferSelect): z.infer<typeof jobView> {
  const { id, kind, payload, state, attempts, lastError } = row;
  return { id, kind, payload, state, attempts, runAt: iso(row.runAt), lastError };
}

/** The outbox, newest first; the dead letters with `state=dead`. */
export async function listJobs(ctx: Context, query: PageQuery & { state?: (typeof JOB_STATES)[number] | undefined }) {
  const rows = await ctx.ports.db.read
    .select()
    .from(t.jobs)
    .where(
      and(
        query.state === undefined ? undefined : eq(t.jobs.state, query.state),
        query.cursor === undefined ? undefined : lt(t.jobs.id, query.cursor as Id<"job">),
      ),
    )
    .orderBy(desc(t.jobs.id))
    .limit(query.limit + 1);
  return page(rows, query.limit, view);
}

/** Puts a dead letter back, to run now. Throws `not_found`, `conflict` when the job is not dead. */
export async function retryJob(ctx: Context, id: Id<"job">) {
  const now = ctx.ports.clock.now();
  return transaction(ctx, async (tx) => {
    const [job] = await tx.db.select().from(t.jobs).where(eq(t.jobs.id, id));
    if (job === undefined) throw new AppError("not_found");
    expectOne(
      await tx.db
        .update(t.jobs)
        .set({ state: "waiting", runAt: now, attempts: 0, losses: 0, finishedAt: null })
        .where(and(eq(t.jobs.id, id), eq(t.jobs.state, "dead"))),
      new AppError("conflict", "Only a dead letter can be run again."),
    );
    await tx.audit("job.retry", id, view(job), null);
    tx.ringAt(now);
    return view({ ...job, state: "waiting", runAt: now, attempts: 0 });
  });
}
