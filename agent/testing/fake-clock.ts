import type { Clock } from "../clock.ts";

/** A clock that moves only when told, and wakes who waits in the order of their times. */
export class FakeClock implements Clock {
  #now = 0;
  #waiting: { at: number; wake: () => void }[] = [];

  wall = () => 1_800_000_000_000 + this.#now;
  mono = () => this.#now;

  wait(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const entry = { at: this.#now + ms, wake: resolve };
      this.#waiting.push(entry);
      signal.addEventListener("abort", () => {
        this.#waiting = this.#waiting.filter((other) => other !== entry);
        resolve();
      });
      return undefined;
    });
  }

  /** Time that passes while work is under way: nobody is woken. */
  skip(ms: number): void {
    this.#now += ms;
  }

  /** Moves on by `ms`, stopping at each time someone waits for and letting what follows from it happen. */
  async advance(ms: number): Promise<void> {
    await settle();
    const end = this.#now + ms;
    for (;;) {
      const next = this.#waiting.reduce<number>((least, entry) => Math.min(least, entry.at), Number.POSITIVE_INFINITY);
      if (next > end) break;
      this.#now = Math.max(this.#now, next);
      const due = this.#waiting.filter((entry) => entry.at <= this.#now);
      this.#waiting = this.#waiting.filter((entry) => entry.at > this.#now);
      for (const entry of due) entry.wake();
      await settle();
    }
    this.#now = end;
  }
}

/** Lets promises that need no time run out. */
async function settle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}
