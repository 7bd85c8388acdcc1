import type { Id } from "../../../shared/ids.ts";
import type { Observation } from "../../../shared/protocol/frames.ts";
import type { Context } from "../context.ts";
import { recordUsage, type UsageReport } from "./record.ts";

/**
 * What hosts told of usage since the last flush, the newest of each: figures are absolute, so what a newer report
 * replaces, or a process that dies takes along, is in the next one.
 */
export class UsageQueue {
  #waiting = new Map<Id<"hst">, UsageReport>();
  #flushing: Promise<void> = Promise.resolve();

  /** Notes a report of the host's newest session. `at` is when it arrived, `clockOffsetMs` the host's clock minus ours. */
  add(
    hostId: Id<"hst">,
    session: { epoch: number; at: number; clockOffsetMs: number },
    { usage, usageEnded }: Observation,
  ): void {
    if (usage === undefined && usageEnded === undefined) return;
    const older = this.#waiting.get(hostId);
    const same = older?.epoch === session.epoch ? older : undefined;
    this.#waiting.set(hostId, { hostId, ...session, usage: usage ?? same?.usage, ended: usageEnded ?? same?.ended });
  }

  /** Writes what waits, in few transactions. What could not be written waits on. */
  flush(ctx: Context): Promise<void> {
    const flushed = this.#flushing.then(() => this.#flush(ctx));
    this.#flushing = flushed.catch(() => undefined);
    return flushed;
  }

  async #flush(ctx: Context): Promise<void> {
    const taken = this.#waiting;
    this.#waiting = new Map();
    try {
      await recordUsage(ctx, [...taken.values()]);
    } catch (error) {
      for (const [hostId, report] of taken) {
        const newer = this.#waiting.get(hostId);
        if (newer === undefined) this.#waiting.set(hostId, report);
        else if (newer.epoch === report.epoch) {
          newer.usage ??= report.usage;
          newer.ended ??= report.ended;
        }
      }
      throw error;
    }
  }
}
