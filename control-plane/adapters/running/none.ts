import type { Running } from "../../ports/index.ts";

/** For a process that keeps nothing running from one request to the next: there is never anything to stop. */
export function nothingRunning(): Running {
  return { start: () => new AbortController().signal, stop: () => false, end: () => {} };
}
