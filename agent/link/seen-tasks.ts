/** Longest a task may be allowed to wait for its start and end; keeps the memory of seen ids bounded in time. */
const MOST_AHEAD_MS = 24 * 3_600_000;
const MOST_IDS = 10_000;

/** The ids of tasks taken, until their deadline: a recorded frame can't be played again. */
export class SeenTasks {
  readonly #deadlines = new Map<string, number>();

  /** Undefined when the task may run (its id is then remembered), else why not. */
  admit(id: string, deadlineAt: number, now: number): string | undefined {
    if (deadlineAt <= now) return "its deadline is past";
    if (deadlineAt > now + MOST_AHEAD_MS) return "its deadline is too far ahead";
    if (this.#deadlines.has(id)) return "it was already taken";
    if (this.#deadlines.size >= MOST_IDS) {
      for (const [seen, at] of this.#deadlines) if (at <= now) this.#deadlines.delete(seen);
      if (this.#deadlines.size >= MOST_IDS) return "too many tasks at once";
    }
    this.#deadlines.set(id, deadlineAt);
    return undefined;
  }
}
