const FIRST_MS = 500;
const LAST_MS = 60_000;
/** Longest wait a server may ask of us: a lying one must not be able to send us away for ever. */
const LONGEST_ASKED_MS = 600_000;

/**
 * Full jitter: anywhere between nothing and a ceiling that doubles from 0.5 s to 60 s, so that ten thousand agents
 * that lost one server don't come back in step.
 *
 * @param attempt failed attempts so far, from 0
 * @param random in [0, 1)
 * @param askedMs what the server asked for (`Retry-After`, `bye`), or undefined
 */
export function reconnectDelay(attempt: number, random: number, askedMs?: number): number {
  const jittered = random * Math.min(LAST_MS, FIRST_MS * 2 ** Math.min(attempt, 20));
  if (askedMs === undefined) return jittered;
  // What was asked is the earliest; a little jitter on top spreads those who were told the same.
  return Math.min(askedMs, LONGEST_ASKED_MS) + Math.min(jittered, FIRST_MS);
}

/** `Retry-After` in ms: seconds, or an HTTP date. Undefined when absent or unreadable. */
export function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^[0-9]{1,7}$/.test(header.trim())) return Number(header.trim()) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}
