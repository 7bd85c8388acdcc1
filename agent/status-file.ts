import type { AgentStatus } from "./cli/status.ts";
import { writeDurable } from "./durable-file.ts";
import type { LinkSession } from "./link/session.ts";
import { type Log, sentence } from "./log.ts";
import type { Report } from "./reconcile.ts";
import type { StateStore } from "./state-store.ts";

/** Keeps status.json for `agent status`: written soon after a change, at most once a second. */
export class StatusFile {
  readonly #store: StateStore;
  readonly #who: { hostId: string; role: string; version: string };
  readonly #log: Log;
  #latest: { session: LinkSession; report: Report | undefined } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #phase = "";
  #since: string | null = null;

  constructor(store: StateStore, who: { hostId: string; role: string; version: string }, log: Log) {
    this.#store = store;
    this.#who = who;
    this.#log = log;
  }

  update(latest: { session: LinkSession; report: Report | undefined }): void {
    this.#latest = latest;
    this.#timer ??= setTimeout(() => this.#write(), 1000);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#write();
  }

  #write(): void {
    this.#timer = undefined;
    if (!this.#latest) return;
    const { session, report } = this.#latest;
    const at = new Date().toISOString();
    if (session.phase !== this.#phase) this.#since = at;
    this.#phase = session.phase;
    const status: AgentStatus = {
      at,
      pid: process.pid,
      ...this.#who,
      link: { phase: session.phase, endpoint: session.endpoint, since: this.#since },
      accepted: session.accepted?.rev ?? null,
      applied: report?.allOk ? report.rev : null,
      problems: (report?.results ?? [])
        .flatMap((r) => (r.ok ? [] : [{ item: r.item, error: r.error ?? "" }]))
        .slice(0, 50),
    };
    try {
      writeDurable(this.#store.path("status.json"), `${JSON.stringify(status)}\n`);
    } catch (error) {
      this.#log.warn("status.json can't be written", { why: sentence(error) });
    }
  }
}
