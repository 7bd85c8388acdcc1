import type { Delay } from "./applied-waiters.ts";

export type BatchClock = {
  monotonic(): number;
  /** With 0 ms: once what the event loop has before it now is dealt with. */
  delay: Delay;
};

export type BatchSize = {
  /** Most members of one batch. */
  most: number;
  /** Most that may wait for theirs; above that whoever asks is refused. */
  mostWaiting: number;
  /** How long after a batch of so many members began the next one waits for company, ms. One that is full waits for none. */
  spacingMs(members: number): number;
};

type Asked<In, Out> = { item: In; resolve(out: Out): void; reject(error: unknown): void };

/**
 * Gathers what many sessions ask for at about the same time and does it together: ten thousand hosts that come back, or a
 * change that touches many, then cost a few statements instead of a few each. One batch runs at a time, in the order asked, and
 * between two the event loop has its turn: so it is also the gate that keeps a storm from taking more of the process than its
 * share.
 */
export class Batch<In, Out> {
  readonly #run: (items: readonly In[]) => Promise<readonly (Out | Error)[]>;
  readonly #clock: BatchClock;
  readonly #size: BatchSize;
  #waiting: Asked<In, Out>[] = [];
  #busy = false;
  /** When the turn that is set comes; undefined when none is. */
  #callOff: (() => void) | undefined;
  #notBefore = Number.NEGATIVE_INFINITY;

  /**
   * @param run answers for each item, in their order, with an error for one that failed; it must end by itself, as nothing else
   *   runs before it has. What it did when it throws must bear being done again: its items are then run one by one, so that the
   *   one it failed for fails alone.
   */
  constructor(run: (items: readonly In[]) => Promise<readonly (Out | Error)[]>, clock: BatchClock, size: BatchSize) {
    this.#run = run;
    this.#clock = clock;
    this.#size = size;
  }

  /** Rejects with what the run failed with for this item, or at once when too many wait. */
  ask(item: In): Promise<Out> {
    if (this.#waiting.length >= this.#size.mostWaiting)
      return Promise.reject(new Error(`${this.#waiting.length} wait for their turn already`));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      // A batch that is full waits for no more company.
      if (this.#waiting.length === this.#size.most) this.#arm(0);
      else if (this.#callOff === undefined) this.#arm(this.#notBefore - this.#clock.monotonic());
    });
  }

  #arm(ms: number): void {
    if (this.#busy) return;
    this.#callOff?.();
    this.#callOff = this.#clock.delay(Math.max(0, ms), () => void this.#next());
  }

  async #next(): Promise<void> {
    this.#callOff = undefined;
    this.#busy = true;
    const asked = this.#waiting.slice(0, this.#size.most);
    this.#waiting = this.#waiting.slice(this.#size.most);
    this.#notBefore = this.#clock.monotonic() + this.#size.spacingMs(asked.length);
    const outcomes = await this.#outcomes(asked.map(({ item }) => item));
    for (const [i, { resolve, reject }] of asked.entries()) {
      const outcome = outcomes[i];
      if (outcome?.status === "fulfilled") resolve(outcome.value);
      else reject(outcome?.reason);
    }
    this.#busy = false;
    if (this.#waiting.length > 0)
      this.#arm(this.#waiting.length >= this.#size.most ? 0 : this.#notBefore - this.#clock.monotonic());
  }

  async #outcomes(items: readonly In[]): Promise<PromiseSettledResult<Out>[]> {
    const whole = await this.#together(items);
    if (!(whole instanceof Failure)) return whole;
    if (items.length === 1) return [whole.outcome];
    const outcomes: PromiseSettledResult<Out>[] = [];
    let failures = 0;
    for (const item of items) {
      // Two in a row: it is not for their own sake that they fail, and the others would only wait to fail as well.
      const outcome = failures === 2 ? outcomes.at(-1) : await this.#alone(item);
      if (outcome === undefined) break;
      if (failures < 2) failures = outcome.status === "rejected" ? failures + 1 : 0;
      outcomes.push(outcome);
    }
    return outcomes;
  }

  async #alone(item: In): Promise<PromiseSettledResult<Out> | undefined> {
    const outcome = await this.#together([item]);
    return outcome instanceof Failure ? outcome.outcome : outcome[0];
  }

  async #together(items: readonly In[]): Promise<PromiseSettledResult<Out>[] | Failure> {
    try {
      return (await this.#run(items)).map((out) =>
        out instanceof Error ? { status: "rejected", reason: out } : { status: "fulfilled", value: out },
      );
    } catch (reason) {
      return new Failure(reason);
    }
  }
}

/** A run that threw. */
class Failure {
  readonly outcome: PromiseRejectedResult;
  constructor(reason: unknown) {
    this.outcome = { status: "rejected", reason };
  }
}
