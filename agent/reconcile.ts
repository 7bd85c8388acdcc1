import { type RawItem, readItems, type StateItem } from "../shared/protocol/desired-state.ts";
import type { HostEvent } from "../shared/protocol/frames.ts";
import type { Clock } from "./clock.ts";
import type { Driver, Step } from "./drivers/driver.ts";
import { nextExpiry } from "./drivers/wireguard-plan.ts";
import { type Log, sentence } from "./log.ts";
import { type Ledger, REMOVAL, runPass } from "./reconcile-pass.ts";
import { RetryBook } from "./retry-book.ts";

// biome-ignore lint/suspicious/noExplicitAny: each driver's own types meet only inside that driver.
export type AnyDriver = Driver<any, any>;
export interface Target {
  rev: number;
  sha256: string;
  items: readonly StateItem[];
  /** What the state asks for and this agent does not know: reported, and tried by nobody. */
  unknown?: readonly { id: string; type: string }[];
}

/** A state as it came, read for the reconciler; undefined when this agent can't read it. */
export function targetOf(state: { rev: number; sha256: string; items: readonly RawItem[] }): Target | undefined {
  const read = readItems(state.items);
  return "bad" in read ? undefined : { rev: state.rev, sha256: state.sha256, ...read };
}

export interface ItemResult {
  item: string;
  ok: boolean;
  error?: string;
}
export interface Report {
  rev: number;
  sha256: string;
  results: ItemResult[];
  allOk: boolean;
}

export interface ReconcilerDeps {
  drivers: readonly AnyDriver[];
  clock: Clock;
  log: Log;
  /** A pass over the newest target ended with results that were not reported yet, or a report was asked for. */
  onReport(report: Report): void;
  onEvents(events: HostEvent[]): void;
}

/** How often the whole kernel is compared with what it should hold: it is most of what an agent with nothing to do does. */
const DRIFT_MS = 20_000;
/** New states go first for no longer than this. Together they are the longest that drift stays, and less than 30 s. */
const STARVED_MS = 5000;
const ERROR_MAX = 500;

/**
 * Brings the kernel to the newest state and keeps it there: one pass at a time, looking at what the kernel really
 * holds. A new state is a matter of the drivers whose part of it is new; every few seconds all of them look. A pass is cut
 * short when a newer state arrives.
 */
export class Reconciler {
  readonly #deps: ReconcilerDeps;
  readonly #retries: RetryBook;
  readonly #ledger: Ledger = new Map();
  /** Monotonic ms when all drivers are due to look. */
  #lookAllAt = Number.NEGATIVE_INFINITY;
  #target: Target | undefined;
  /** Of the last pass that was not cut short. */
  #passed: Target | undefined;
  #settledFor: Target | undefined;
  #reported = "";
  #asked = false;
  #wake = new AbortController();
  /** UTC ms the last pass planned for. */
  #lookedAt = 0;
  #stopped = false;
  /** Monotonic ms when a step of a pass last ended or the loop last slept, for the watchdog. */
  aliveAt: number;
  lastReport: Report | undefined;

  constructor(deps: ReconcilerDeps) {
    this.#deps = deps;
    this.#retries = new RetryBook();
    this.aliveAt = deps.clock.mono();
  }

  get target(): Target | undefined {
    return this.#target;
  }

  /** The newest state wins; a pass under way over an older one ends at its next step. */
  want(target: Target): void {
    this.#target = target;
    this.#asked = true;
    this.#retries.clear();
    this.#wake.abort();
  }

  /** Look at everything again now and report, whatever the outcome was before. */
  recheck(): void {
    this.#asked = true;
    this.#lookAllAt = Number.NEGATIVE_INFINITY;
    this.#wake.abort();
  }

  stop(): void {
    this.#stopped = true;
    this.#wake.abort();
  }

  /** Runs until {@link stop}. Never throws: what fails is reported and tried again. */
  async run(): Promise<void> {
    const { clock, log } = this.#deps;
    while (!this.#stopped) {
      this.#wake = new AbortController();
      if (this.#target) {
        try {
          await this.#pass(this.#target);
        } catch (error) {
          log.error("a reconcile pass failed", { why: sentence(error) });
        }
      }
      this.aliveAt = clock.mono();
      if (!this.#stopped) await clock.wait(this.#sleepMs(), this.#wake.signal);
      this.aliveAt = clock.mono();
    }
  }

  #sleepMs(): number {
    const { clock } = this.#deps;
    const now = clock.wall();
    const due = [now + this.#lookAllAt - clock.mono()];
    // Counted from when the last pass looked at the clock: what expired while it ran is due at once.
    const expiry = this.#target && nextExpiry(this.#target.items, this.#lookedAt);
    if (expiry !== undefined) due.push(expiry);
    const retry = this.#retries.next();
    if (retry !== undefined) due.push(now + Math.max(0, retry - clock.mono()));
    return Math.max(10, Math.min(...due) - now);
  }

  async #pass(target: Target): Promise<void> {
    const { drivers, clock, log, onEvents, onReport } = this.#deps;
    this.#lookedAt = clock.wall();
    const mono = clock.mono();
    const late = mono - this.#lookAllAt;
    // A new state goes first, but a host whose state changes all the time is looked at as a whole too.
    const starved = late >= STARVED_MS;
    const newer = () => this.#target !== target || this.#stopped;
    const outcome = await runPass(drivers, target.items, {
      wall: this.#lookedAt,
      mono,
      retries: this.#retries,
      look: starved || (late >= 0 && target === this.#passed) ? "all" : "changed",
      ledger: this.#ledger,
      turned: () => {
        this.aliveAt = clock.mono();
      },
      superseded: (before) => newer() && !(starved && before === "looking"),
      lookedAtAll: () => {
        this.#lookAllAt = mono + DRIFT_MS;
      },
    });
    if (outcome === "superseded") return;
    this.#passed = target;
    const { errors, done, failed } = outcome;
    for (const step of done) log.info("kernel changed", { what: step.what });
    for (const { what, error } of failed) log.warn("a change failed and will be tried again", { what, error });
    const results = target.items.map((item): ItemResult => {
      const error = errors.get(item.id);
      return error === undefined ? { item: item.id, ok: true } : { item: item.id, ok: false, error: cut(error) };
    });
    for (const { id, type } of target.unknown ?? [])
      results.push({ item: id, ok: false, error: cut(`unsupported: this agent knows no item of kind "${type}"`) });
    const removal = errors.get(REMOVAL);
    if (removal !== undefined) results.push({ item: REMOVAL, ok: false, error: cut(removal) });
    const { rev, sha256 } = target;
    const settled = failed.length === 0 && outcome.waiting === 0;
    const report = { rev, sha256, results, allOk: settled && results.every((r) => r.ok) };
    this.lastReport = report;
    const events = this.#events(target, done, failed);
    // Only after a clean pass is a later difference drift; until then it is work not yet done.
    if (settled) this.#settledFor = target;
    if (events.length > 0) onEvents(events);
    const key = JSON.stringify(report);
    const due = this.#asked || key !== this.#reported;
    this.#asked = false;
    this.#reported = key;
    if (due) onReport(report);
  }

  #events(target: Target, done: readonly Step[], failed: readonly { step: Step | null; error: string }[]): HostEvent[] {
    const at = this.#deps.clock.wall();
    const about = (step: Step | null) => (step?.items[0] === undefined ? {} : { item: step.items[0] });
    const events: HostEvent[] = [];
    for (const step of done) {
      if (step.cause === "expired")
        events.push({ at, kind: "expired_on_host", ...about(step), detail: cut(step.what) });
      else if (step.cause === "differs" && this.#settledFor === target)
        events.push({ at, kind: "drift_repaired", ...about(step), detail: cut(step.what) });
    }
    for (const { step, error } of failed) events.push({ at, kind: "apply_failed", ...about(step), detail: cut(error) });
    return events.slice(0, 100);
  }
}

const cut = (text: string) => text.slice(0, ERROR_MAX);
