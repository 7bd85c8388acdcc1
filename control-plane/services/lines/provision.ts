import { and, asc, eq, ne } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import type { ProvisionStep } from "../../db/schema/index.ts";
import * as t from "../../db/schema/index.ts";
import { type Transaction, transaction } from "../../db/transaction.ts";
import type { Context } from "../context.ts";
import { isOnline } from "../hosts/reach.ts";

type Line = typeof t.lines.$inferSelect;
/** A step's work: true when it is done, false when it must wait. Asked again after a crash, it finds what it did before. */
type StepWork = (ctx: Context, line: Line) => Promise<boolean>;

/** Tries of one step before the line is given up and an operator looks at it. */
export const MAX_TRIES = 90;

/**
 * The provisioning saga of one line: goes on from the first step that is not done. Every step is a row; each is idempotent,
 * so a crash at any point costs a repetition and nothing else. Answers "done", "failed", or how often the step that has to
 * wait was tried (ask again later).
 */
export async function provisionLine(ctx: Context, lineId: Id<"lin">): Promise<"done" | "failed" | { tries: number }> {
  const steps = await ctx.ports.db.read.select().from(t.provisionSteps).where(eq(t.provisionSteps.lineId, lineId));
  for (const step of t.PROVISION_STEPS) {
    const row = steps.find((s) => s.step === step);
    if (row?.state === "done") continue;
    const [line] = await ctx.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
    if (line === undefined || line.state !== "provisioning") return "done";
    let done = false;
    let problem = "waiting";
    try {
      done = await WORK[step](ctx, line);
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
    }
    const tries = (row?.tries ?? 0) + 1;
    const outcome = done ? "done" : tries >= MAX_TRIES ? "failed" : "wait";
    await transaction(ctx, async (tx) => {
      const { rowsAffected } = await tx.db
        .update(t.provisionSteps)
        .set({
          state: outcome === "wait" ? "pending" : outcome,
          tries,
          lastError: done ? null : problem.slice(0, 500),
          updatedAt: ctx.ports.clock.now(),
        })
        // A worker whose lease ran out may come back late: what another has done since stays done.
        .where(
          and(
            eq(t.provisionSteps.lineId, lineId),
            eq(t.provisionSteps.step, step),
            eq(t.provisionSteps.state, "pending"),
          ),
        );
      if (outcome === "failed" && rowsAffected === 1) await giveUp(tx, line, step);
    });
    if (outcome !== "done") return outcome === "wait" ? { tries } : outcome;
  }
  return "done";
}

const WORK: Readonly<Record<ProvisionStep, StepWork>> = {
  async take_exit(ctx, line) {
    const taken = await ctx.ports.cloud.takeExit({ lineId: line.id, regionId: line.destinationRegionId });
    return taken !== "wait";
  },
  async get_address(ctx, line) {
    const address = await ctx.ports.cloud.getAddress(cloudLine(line));
    if (address === "wait") return false;
    await transaction(ctx, async (tx) => {
      await tx.db.update(t.lines).set({ eip: address.address }).where(eq(t.lines.id, line.id));
    });
    return true;
  },
  async bind_address(ctx, line) {
    if (line.eip === null) throw new Error("the line has no address");
    return (await ctx.ports.cloud.bindAddress({ ...cloudLine(line), address: line.eip })) === "bound";
  },
  async await_link(ctx, line) {
    const host = await exitOf(ctx, line);
    if (!isOnline(host, ctx.ports.clock.now())) return false;
    // The exit may have been away when it was taken: wake it now that it is here, with a revision to answer for.
    await transaction(ctx, async (tx) => {
      await tx.touchHosts([host.id], `is up, and shows that it holds the tunnel of line ${line.id}`);
    });
    return true;
  },
  async apply_state(ctx, line) {
    const host = await exitOf(ctx, line);
    const failed = (host.appliedResults ?? []).find((r) => !r.ok);
    if (failed !== undefined) throw new Error(`${failed.item}: ${failed.error ?? "failed"}`);
    return host.appliedRev !== null && host.appliedRev >= host.desiredRev;
  },
  async activate(ctx, line) {
    await transaction(ctx, (tx) => activate(ctx, tx, line));
    return true;
  },
};

function cloudLine(line: Line) {
  if (line.exitHostId === null) throw new Error("the line has no exit");
  return { lineId: line.id, regionId: line.destinationRegionId, hostId: line.exitHostId };
}

async function exitOf(ctx: Context, line: Line) {
  const { hostId } = cloudLine(line);
  const [host] = await ctx.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, hostId));
  if (host === undefined) throw new Error(`the exit ${hostId} is gone`);
  return host;
}

/** The line is up: its resource runs, its end is armed, and with the last one its order is complete. */
async function activate(ctx: Context, tx: Transaction, line: Line): Promise<void> {
  const { rowsAffected } = await tx.db
    .update(t.lines)
    .set({ state: "active" })
    .where(and(eq(t.lines.id, line.id), eq(t.lines.state, "provisioning")));
  if (rowsAffected !== 1) return;
  // With the line, not after it: a crash in between would show a step as pending for ever.
  await tx.db
    .update(t.provisionSteps)
    .set({ state: "done", updatedAt: ctx.ports.clock.now() })
    .where(and(eq(t.provisionSteps.lineId, line.id), eq(t.provisionSteps.step, "activate")));
  const [resource] = await tx.db
    .update(t.resources)
    .set({ state: "running" })
    .where(and(eq(t.resources.id, line.resourceId), eq(t.resources.state, "creating")))
    .returning();
  if (resource === undefined) throw new Error(`resource ${line.resourceId} of a line being made is not being made`);
  await tx.job(
    "resource.expire",
    { resourceId: resource.id },
    resource.endsAt,
    `resource.expire/${resource.id}/${resource.endsAt}`,
  );
  const { exitHostId, eip } = line;
  await tx.audit("line.activate", line.id, { state: "provisioning" }, { state: "active", exitHostId, eip });
  const others = await tx.db
    .select({ id: t.resources.id })
    .from(t.resources)
    .where(and(eq(t.resources.orderId, resource.orderId), ne(t.resources.state, "running")))
    .orderBy(asc(t.resources.ordinal));
  if (others.length > 0) return;
  const completed = await tx.db
    .update(t.orders)
    .set({ state: "completed", endedAt: ctx.ports.clock.now() })
    .where(and(eq(t.orders.id, resource.orderId), eq(t.orders.state, "processing")));
  if (completed.rowsAffected === 1)
    await tx.audit("order.complete", resource.orderId, { state: "processing" }, { state: "completed" });
}

/** The line could not be made. Nobody is refunded by itself: the order shows failed, and an operator decides. */
async function giveUp(tx: Transaction, line: Line, step: ProvisionStep): Promise<void> {
  const { rowsAffected } = await tx.db
    .update(t.lines)
    // The exit and its address go back to the pool.
    .set({ state: "failed", exitHostId: null, eip: null })
    .where(and(eq(t.lines.id, line.id), eq(t.lines.state, "provisioning")));
  if (rowsAffected !== 1) return;
  await tx.db
    .update(t.provisionSteps)
    .set({ state: "undone" })
    .where(and(eq(t.provisionSteps.lineId, line.id), eq(t.provisionSteps.state, "done")));
  // The exit drops the tunnel of a line that will not be.
  if (line.exitHostId !== null)
    await tx.touchHosts([line.exitHostId], `tunnel of line ${line.id} removed: the line was given up`);
  const [resource] = await tx.db
    .update(t.resources)
    .set({ state: "create_failed" })
    .where(and(eq(t.resources.id, line.resourceId), eq(t.resources.state, "creating")))
    .returning();
  if (resource !== undefined)
    await tx.db
      .update(t.orders)
      .set({ state: "failed" })
      .where(and(eq(t.orders.id, resource.orderId), eq(t.orders.state, "processing")));
  await tx.audit(
    "line.provision_failed",
    line.id,
    { state: "provisioning" },
    { state: "failed", step, exitHostId: line.exitHostId },
  );
}
