/** Time as the agent's loops see it; tests bring their own. */
export interface Clock {
  /** UTC ms. */
  wall(): number;
  /** Monotonic ms, never jumps. */
  mono(): number;
  /** Resolves after `ms`, or when the signal is aborted. Never rejects. */
  wait(ms: number, signal: AbortSignal): Promise<void>;
}

/** The machine's clocks. */
export const systemClock: Clock = {
  wall: () => Date.now(),
  mono: () => performance.now(),
  wait: (ms, signal) =>
    new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      // A timer above 2^31 ms would fire at once.
      const timer = setTimeout(done, Math.min(ms, 2_000_000_000));
      signal.addEventListener("abort", done);
    }),
};
