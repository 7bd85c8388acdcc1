import type { RolloutHostState, RolloutState } from "../../db/schema/index.ts";

/** How many hosts of a rollout are in which state, canaries and others apart. */
export type RolloutCounts = Record<"canaries" | "others", Record<RolloutHostState, number>>;

export type RolloutFacts = { state: RolloutState; batch: number; soakMs: number; waitUntil: number | null };

/** Where a rollout stands, and how many more hosts may be sent to now, of which kind. */
export type Decision = { state: RolloutState; waitUntil: number | null; room: number; canary: boolean };

/**
 * The rollout's state machine: canaries, a while of waiting, the others in batches, done. A halt is not decided here: it is
 * in the transaction that learns of the failure. Pure.
 */
export function decide(rollout: RolloutFacts, counts: RolloutCounts, now: number): Decision {
  const { canaries, others } = counts;
  const room = Math.max(0, rollout.batch - canaries.sent - others.sent);
  const stay = (state: RolloutState): Decision => ({ state, waitUntil: null, room: 0, canary: false });
  let { state, waitUntil } = rollout;
  if (state === "canary") {
    if (open(canaries) > 0) return { ...stay("canary"), room: Math.min(room, canaries.pending), canary: true };
    if (open(others) === 0) return stay("done");
    state = "waiting";
    waitUntil = now + rollout.soakMs;
  }
  if (state === "waiting") {
    if (waitUntil !== null && now < waitUntil) return { ...stay("waiting"), waitUntil };
    state = "rolling";
  }
  if (state !== "rolling") return stay(state);
  // Canaries that an operator sent back in when the others were under way already go with them.
  if (open(canaries) + open(others) === 0) return stay("done");
  if (canaries.pending > 0) return { ...stay("rolling"), room: Math.min(room, canaries.pending), canary: true };
  return { ...stay("rolling"), room: Math.min(room, others.pending) };
}

function open(counts: Record<RolloutHostState, number>): number {
  return counts.pending + counts.sent;
}
