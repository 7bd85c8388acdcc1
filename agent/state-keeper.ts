import type { KeptState } from "./state-store.ts";

/**
 * Puts accepted states on disk. A disk takes as long as a tool that changes the kernel, so both go on at the same time: the
 * state is written in the next turn of the event loop, when the first tools run already, and before anyone is told that it
 * is applied.
 */
export class StateKeeper {
  readonly #save: (state: KeptState) => void;
  #unsaved: KeptState | undefined;

  constructor(save: (state: KeptState) => void) {
    this.#save = save;
  }

  accept(state: KeptState): void {
    this.#unsaved = state;
    setImmediate(() => this.flush());
  }

  /** From here on the last accepted state is on disk. */
  flush(): void {
    const state = this.#unsaved;
    this.#unsaved = undefined;
    if (state) this.#save(state);
  }
}
