const FIRST_MS = 1000;
const LAST_MS = 60_000;

/** When things that failed may be tried again: 1 s, 2 s, 4 s … 60 s. Times are monotonic ms. */
export class RetryBook {
  readonly #entries = new Map<string, { tries: number; at: number; error: string }>();

  failed(key: string, error: string, now: number): void {
    const tries = (this.#entries.get(key)?.tries ?? 0) + 1;
    this.#entries.set(key, { tries, at: now + Math.min(LAST_MS, FIRST_MS * 2 ** (tries - 1)), error });
  }

  succeeded(key: string): void {
    this.#entries.delete(key);
  }

  /** The error of the last try while it is too early for another; undefined when it may be tried. */
  waiting(key: string, now: number): string | undefined {
    const entry = this.#entries.get(key);
    return entry && entry.at > now ? entry.error : undefined;
  }

  /** The earliest next try. */
  next(): number | undefined {
    let next: number | undefined;
    for (const { at } of this.#entries.values()) if (next === undefined || at < next) next = at;
    return next;
  }

  /** Drops entries of things nobody asks for any more. */
  keepOnly(keys: ReadonlySet<string>): void {
    for (const key of this.#entries.keys()) if (!keys.has(key)) this.#entries.delete(key);
  }

  /** A new state may have cured it: everything may be tried at once. */
  clear(): void {
    this.#entries.clear();
  }
}
