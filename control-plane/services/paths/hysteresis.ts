/** One round of a probe, as a host reports it: a few pings in a row. Times in ms; null when nothing was answered. */
export type Round = { sent: number; received: number; p50Ms: number | null };

/** What is remembered of a segment between rounds. */
export type Judged = {
  /** `unknown` until the target has answered once: many never answer pings, and that is no fault of the path. */
  state: "unknown" | "good" | "degraded";
  /** Rounds in a row that say the opposite of the state. */
  against: number;
  /** Slow mean of the round trip, ms: what is normal for this segment. */
  baselineMs: number | null;
};

export const UNJUDGED: Judged = { state: "unknown", against: 0, baselineMs: null };

/** So many bad rounds in a row raise the alarm, so many good ones clear it. One a minute. */
export const RAISE_AFTER = 3;
export const CLEAR_AFTER = 5;
/** A round is bad from this share of loss on: one of five pings. */
const BAD_LOSS = 0.2;
/** Or when the way takes twice as long as it does, and by more than jitter. */
const SLOW_FACTOR = 2;
const SLOW_BY_MS = 20;
/** A new normal is learned in about an hour, a route that stays longer by then is no alarm any more. */
const LEARN = 1 / 64;

/** Is this round bad, measured against what was normal before it? */
export function isBad(round: Round, baselineMs: number | null): boolean {
  if (round.sent === 0) return false;
  if (round.received <= round.sent * (1 - BAD_LOSS) || round.p50Ms === null) return true;
  return baselineMs !== null && round.p50Ms > Math.max(baselineMs * SLOW_FACTOR, baselineMs + SLOW_BY_MS);
}

/**
 * What a round makes of a segment. An alarm is raised after {@link RAISE_AFTER} bad rounds in a row and cleared after
 * {@link CLEAR_AFTER} good ones, so that a path at the edge does not flap. Pure.
 */
export function judge(before: Judged, round: Round): Judged & { turned: "degraded" | "recovered" | undefined } {
  if (round.sent === 0) return { ...before, turned: undefined };
  const bad = isBad(round, before.baselineMs);
  const baselineMs = learn(before.baselineMs, round.p50Ms);
  if (before.state === "unknown") {
    const state = round.received > 0 ? "good" : "unknown";
    return { state, against: state === "good" && bad ? 1 : 0, baselineMs, turned: undefined };
  }
  const degraded = before.state === "degraded";
  const against = bad === degraded ? 0 : before.against + 1;
  if (against < (degraded ? CLEAR_AFTER : RAISE_AFTER)) return { ...before, against, baselineMs, turned: undefined };
  return { state: degraded ? "good" : "degraded", against: 0, baselineMs, turned: degraded ? "recovered" : "degraded" };
}

function learn(baselineMs: number | null, p50Ms: number | null): number | null {
  if (p50Ms === null) return baselineMs;
  return baselineMs === null ? p50Ms : baselineMs + (p50Ms - baselineMs) * LEARN;
}
