import { eq } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import type { Ports } from "../../ports/index.ts";
import { type Context, systemContext } from "../context.ts";
import { claimHosts, FETCH_MS, failedItems } from "./claim.ts";
import type { Rollout, RolloutHost } from "./rows.ts";
import { settleHost } from "./settle.ts";

type Sent = { part: RolloutHost; rollout: Rollout; host: typeof t.hosts.$inferSelect };

/**
 * Sends upgrades to the hosts linked to this process. What has to be done is in the database, and a host answers the same
 * question as often as it is asked, so a process that dies, or a link that moves to another one, loses nothing.
 */
export function rolloutDriver(ports: Ports): { turn(): Promise<void> } {
  const ctx = systemContext(ports, "rollouts");
  const asking = new Set<string>();
  return {
    /** Call it every second or so: takes hosts whose turn it is, and asks each that is under way how far it is. */
    async turn() {
      await claimHosts(ctx);
      const sent: Sent[] = await ports.db.read
        .select({ part: t.rolloutHosts, rollout: t.rollouts, host: t.hosts })
        .from(t.rolloutHosts)
        .innerJoin(t.rollouts, eq(t.rollouts.id, t.rolloutHosts.rolloutId))
        .innerJoin(t.hosts, eq(t.hosts.id, t.rolloutHosts.hostId))
        .where(eq(t.rolloutHosts.state, "sent"));
      for (const one of sent) {
        const { attempt, hostId } = one.part;
        if (attempt === null || asking.has(attempt) || !ports.fleet.isLinked(hostId)) continue;
        asking.add(attempt);
        const work = ask(ctx, one)
          .catch((error) => ports.log.error("upgrade", { hostId, error }))
          .finally(() => asking.delete(attempt));
        ports.background(work);
      }
    },
  };
}

async function ask(ctx: Context, { part, rollout, host }: Sent): Promise<void> {
  const { fleet, clock } = ctx.ports;
  if (part.attempt === null) return;
  const { manifest, signature, trialS, older } = rollout;
  const params = { attempt: part.attempt, manifest, signature, trialS, older, commit: isProven(part, rollout, host) };
  try {
    const events = fleet.runTask(part.hostId, { kind: "upgrade", params }, { deadlineAt: clock.now() + FETCH_MS });
    for await (const event of events) if (event.type === "end") await settleHost(ctx, part, event.outcome);
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== "host_needs_upgrade") throw error;
    // Its agent is too old to upgrade itself: it has to be installed again by hand.
    await settleHost(ctx, part, { ok: false, error: { code: error.code, detail: error.message } });
  }
}

/**
 * The new version has joined, and with this session it has applied its state with nothing failing that did not fail before. That it
 * then hears the task that says so, and can answer, is the last of the proof: it can be upgraded again.
 */
function isProven(part: RolloutHost, rollout: Rollout, host: Sent["host"]): boolean {
  const { version, joinedAt, appliedAt } = host;
  if (version !== rollout.version || joinedAt === null || appliedAt === null || appliedAt < joinedAt) return false;
  const before = new Set(part.failedBefore ?? []);
  return failedItems(host).every((item) => before.has(item));
}
