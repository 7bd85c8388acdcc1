/** Nine in the morning, some day in 2026: where every small world begins. UTC ms. */
const START = Date.UTC(2026, 2, 10, 4);

type Planned = { at: number; seq: number; fn: () => void };

/**
 * The one clock of a small world. Nothing happens but what was planned, in the order of its time, and each thing's
 * consequences are let run out before the next: the same plan gives the same history.
 */
export class VirtualTime {
  #now = 0;
  #seq = 0;
  #plan: Planned[] = [];

  /** Monotonic ms. */
  readonly mono = (): number => this.#now;
  /** UTC ms. */
  readonly wall = (): number => START + this.#now;

  /** Plans `fn`, on a whole ms; answers how to call it off. */
  after(ms: number, fn: () => void): () => void {
    const entry = { at: this.#now + Math.max(0, Math.ceil(ms)), seq: this.#seq++, fn };
    let low = 0;
    for (let high = this.#plan.length; low < high; ) {
      const middle = (low + high) >> 1;
      const other = this.#plan[middle] as Planned;
      if (other.at < entry.at || (other.at === entry.at && other.seq < entry.seq)) low = middle + 1;
      else high = middle;
    }
    this.#plan.splice(low, 0, entry);
    return () => {
      const at = this.#plan.indexOf(entry);
      if (at >= 0) this.#plan.splice(at, 1);
    };
  }

  /** Runs `fn` again and again; answers how to end it. */
  every(ms: number, fn: () => void): () => void {
    let callOff = () => {};
    const again = () => {
      callOff = this.after(ms, () => {
        again();
        fn();
      });
    };
    again();
    return () => callOff();
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }

  /** Like {@link sleep}, but ends early when the signal is aborted. */
  wait(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const callOff = this.after(ms, resolve);
      signal.addEventListener("abort", () => {
        callOff();
        resolve();
      });
      return undefined;
    });
  }

  /** Lets so much time go by, with everything planned for it. */
  async advance(ms: number): Promise<void> {
    await settle();
    const end = this.#now + ms;
    for (let next = this.#plan[0]; next !== undefined && next.at <= end; next = this.#plan[0]) {
      this.#plan.shift();
      this.#now = Math.max(this.#now, next.at);
      next.fn();
      await settle();
    }
    this.#now = end;
  }

  /** Lets time pass in which nothing runs, as when every machine sleeps: what fell due meanwhile is all due at its end. */
  jump(ms: number): void {
    this.#now += ms;
  }
}

/** Lets promises that need no time run out; twice, for those that put something off to after their turn. */
async function settle(): Promise<void> {
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
}
