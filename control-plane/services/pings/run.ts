import { and, eq } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import { pingEventSchema, pingResultSchema } from "../../../shared/protocol/tasks.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Context, requireUser } from "../context.ts";
import { TUNNEL } from "../hosts/desired-state.ts";
import { isReachable } from "../hosts/reach.ts";
import { spend } from "../rate-limit.ts";

export const pingInput = z.object({
  count: z.number().int().min(1).max(1000).default(10),
  intervalMs: z.number().int().min(20).max(10_000).default(1000),
});

const PINGS_A_MINUTE = 60;

export type PingStreamEvent = { event: "reply" | "no_answer_yet" | "result" | "error"; data: unknown };

/**
 * Pings the customer's tunnel address from the line's exit: how far is the customer now. Yields each answer as it comes
 * and the statistics last; ending the iteration ends the ping on the host.
 *
 * Throws `not_found`, `host_not_online`, `client_not_connected`, `rate_limited` before the first event.
 */
export async function runPing(
  ctx: Context,
  lineId: Id<"lin">,
  input: z.infer<typeof pingInput>,
  signal: AbortSignal,
): Promise<AsyncIterable<PingStreamEvent>> {
  const { ports } = ctx;
  const { userId } = requireUser(ctx);
  const [found] = await ports.db.read
    .select({ exit: t.hosts })
    .from(t.lines)
    .leftJoin(t.hosts, eq(t.hosts.id, t.lines.exitHostId))
    .where(eq(t.lines.id, lineId));
  if (found === undefined) throw new AppError("not_found");
  const { exit } = found;
  if (exit === null || !isReachable(exit, ports.clock.now())) throw new AppError("host_not_online");
  const [active] = await ports.db.read
    .select({ id: t.connections.id })
    .from(t.connections)
    .where(and(eq(t.connections.lineId, lineId), eq(t.connections.state, "active")));
  if (active === undefined) throw new AppError("client_not_connected");
  await spend(ctx, [{ key: `ping:${userId}`, limit: PINGS_A_MINUTE, windowMs: 60_000 }]);
  await transaction(ctx, (tx) => tx.audit("ping.start", lineId, null, input));

  const target = TUNNEL.clientAddress.split("/")[0] ?? "";
  const deadlineAt = ports.clock.now() + input.count * input.intervalMs + 15_000;
  const events = ports.fleet.runTask(
    exit.id,
    { kind: "ping", params: { target, interface: TUNNEL.interface, ...input } },
    { deadlineAt, signal },
  );
  return present(events);
}

async function* present(events: ReturnType<Context["ports"]["fleet"]["runTask"]>): AsyncGenerator<PingStreamEvent> {
  for await (const event of events) {
    if (event.type === "event") {
      const parsed = pingEventSchema.safeParse(event.data);
      if (parsed.success) yield { event: parsed.data.type, data: parsed.data };
    } else if (event.outcome.ok) yield { event: "result", data: pingResultSchema.parse(event.outcome.result) };
    else yield { event: "error", data: event.outcome.error };
  }
}
