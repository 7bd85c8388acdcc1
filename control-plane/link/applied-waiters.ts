import { inArray } from "drizzle-orm";
import type { Id } from "../../shared/ids.ts";
import * as t from "../db/schema/index.ts";
import type { Database, RevisionTarget } from "../ports/index.ts";

type Waiting = { targets: readonly RevisionTarget[]; done: boolean[]; finish(): void };

/** Runs `fn` after so many ms; answers how to call it off. */
export type Delay = (ms: number, fn: () => void) => () => void;

/** Requests that wait until hosts have verified a revision. */
export class AppliedWaiters {
  readonly #db: Database;
  readonly #delay: Delay;
  readonly #waiting = new Set<Waiting>();

  constructor(db: Database, delay: Delay) {
    this.#db = db;
    this.#delay = delay;
  }

  /** A host verified a revision, item by item. */
  applied(hostId: Id<"hst">, rev: number, results: readonly t.ItemResult[]): void {
    for (const waiting of this.#waiting) {
      waiting.targets.forEach((target, i) => {
        if (target.hostId === hostId && rev >= target.rev) waiting.done[i] = holds(target, results);
      });
      if (waiting.done.every(Boolean)) waiting.finish();
    }
  }

  /** Waits at most so long; answers for each target whether its host has verified it. */
  async wait(targets: readonly RevisionTarget[], timeoutMs: number): Promise<boolean[]> {
    const waiting: Waiting = { targets, done: targets.map(() => false), finish: () => {} };
    const finished = new Promise<void>((resolve) => {
      waiting.finish = resolve;
    });
    // Listen first, then look: an ack that lands in between is seen by one of the two.
    this.#waiting.add(waiting);
    try {
      await this.#look(waiting);
      if (waiting.done.every(Boolean) || timeoutMs <= 0) return waiting.done;
      const callOff = this.#delay(timeoutMs, waiting.finish);
      await finished;
      callOff();
      // Another process may hold the host's link: its ack is in the database only.
      if (!waiting.done.every(Boolean)) await this.#look(waiting);
      return waiting.done;
    } finally {
      this.#waiting.delete(waiting);
    }
  }

  async #look(waiting: Waiting): Promise<void> {
    const rows = await this.#db.read
      .select({ id: t.hosts.id, rev: t.hosts.appliedRev, results: t.hosts.appliedResults })
      .from(t.hosts)
      .where(
        inArray(
          t.hosts.id,
          waiting.targets.map((target) => target.hostId),
        ),
      );
    waiting.targets.forEach((target, i) => {
      const row = rows.find((r) => r.id === target.hostId);
      if (row?.rev !== null && row !== undefined && row.rev >= target.rev)
        waiting.done[i] = holds(target, row.results ?? []);
    });
  }
}

function holds(target: RevisionTarget, results: readonly t.ItemResult[]): boolean {
  return results.every((r) => r.ok || (target.items !== undefined && !target.items.includes(r.item)));
}
