import { sql } from "drizzle-orm";
import type { Id } from "../../shared/ids.ts";
import { inList } from "../db/indexed.ts";
import { prepared } from "../db/prepared.ts";
import * as t from "../db/schema/index.ts";
import type { Database, Delay, RevisionTarget } from "../ports/index.ts";

type Waiting = { targets: readonly RevisionTarget[]; done: boolean[]; finish(): void };

export type { Delay };

/** How often a waiting request looks into the database: another process may hold the host's link, and its hint be lost. */
const LOOK_EVERY_MS = 500;

const APPLIED = prepared((db) =>
  db
    .select({ id: t.hosts.id, rev: t.hosts.appliedRev, results: t.hosts.appliedResults })
    .from(t.hosts)
    .where(inList(t.hosts.id, sql.placeholder("ids")))
    .prepare(),
);

/** Requests that wait until hosts have verified a revision. */
export class AppliedWaiters {
  readonly #db: Database;
  readonly #delay: Delay;
  readonly #waiting = new Set<Waiting>();

  constructor(db: Database, delay: Delay) {
    this.#db = db;
    this.#delay = delay;
  }

  /** A host verified a revision, but for the items that failed. */
  applied(hostId: Id<"hst">, rev: number, failed: readonly string[]): void {
    for (const waiting of this.#waiting) {
      waiting.targets.forEach((target, i) => {
        if (target.hostId === hostId && rev >= target.rev) waiting.done[i] = holds(target, failed);
      });
      if (waiting.done.every(Boolean)) waiting.finish();
    }
  }

  /** Waits at most so long; answers for each target whether its host has verified it. */
  async wait(targets: readonly RevisionTarget[], timeoutMs: number): Promise<boolean[]> {
    const waiting: Waiting = { targets, done: targets.map(() => false), finish: () => {} };
    // Listen first, then look: an ack that lands in between is seen by one of the two.
    this.#waiting.add(waiting);
    try {
      await this.#look(waiting);
      for (let left = timeoutMs; left > 0 && !waiting.done.every(Boolean); left -= LOOK_EVERY_MS) {
        await new Promise<void>((resolve) => {
          const callOff = this.#delay(Math.min(left, LOOK_EVERY_MS), resolve);
          waiting.finish = () => {
            callOff();
            resolve();
          };
        });
        if (!waiting.done.every(Boolean)) await this.#look(waiting);
      }
      return waiting.done;
    } finally {
      this.#waiting.delete(waiting);
    }
  }

  async #look(waiting: Waiting): Promise<void> {
    const ids = JSON.stringify(waiting.targets.map((target) => target.hostId));
    const rows = await APPLIED(this.#db.read).all({ ids });
    waiting.targets.forEach((target, i) => {
      const row = rows.find((r) => r.id === target.hostId);
      if (row?.rev !== null && row !== undefined && row.rev >= target.rev)
        waiting.done[i] = holds(target, failedItems(row.results ?? []));
    });
  }
}

function holds(target: RevisionTarget, failed: readonly string[]): boolean {
  return failed.every((item) => target.items !== undefined && !target.items.includes(item));
}

/** The items of a host's answer that it could not apply. */
export function failedItems(results: readonly t.ItemResult[]): string[] {
  return results.filter((result) => !result.ok).map((result) => result.item);
}
