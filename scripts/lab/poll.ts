import { setTimeout as delay } from "node:timers/promises";

/**
 * Waits until `condition` gives something truthy and hands it back; an error it throws counts as "not yet" and is
 * named when time runs out.
 */
export async function poll<T>(
  condition: () => T | Promise<T>,
  options: { what: string; timeoutMs?: number; everyMs?: number },
): Promise<NonNullable<T>> {
  const deadline = performance.now() + (options.timeoutMs ?? 15_000);
  let last: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value as NonNullable<T>;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) {
      const why = last instanceof Error ? `: ${last.message}` : "";
      throw new Error(`timed out waiting for ${options.what}${why}`);
    }
    await delay(options.everyMs ?? 10);
  }
}
