/** After the last change, until its garbage is collected. */
const QUIET_MS = 1000;

/**
 * Has V8 collect what a burst of changes left behind, once it is over: by itself it would do so only when the next burst needs
 * the room, and the host would be without those megabytes until then. Takes some 15 ms. Does nothing where node was started
 * without `--expose-gc`; the agent's unit has it.
 */
export class SpareMemory {
  readonly #collect = (globalThis as { gc?: (how: object) => void }).gc;
  #timer: NodeJS.Timeout | undefined;

  /** There was a change. */
  changed(): void {
    const collect = this.#collect;
    if (collect === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => collect({ type: "major", flavor: "last-resort" }), QUIET_MS).unref();
  }
}
