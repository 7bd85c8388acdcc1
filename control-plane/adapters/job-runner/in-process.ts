import { nextDueAt, runDueJobs } from "../../jobs/run-due.ts";
import type { JobBell, Ports } from "../../ports/index.ts";

/** Jobs run side by side at most. */
const WIDTH = 8;
/** Looks again at least this often, whatever rang or did not. */
const MAX_SLEEP_MS = 5_000;

/** Runs due jobs in this process. `bell` goes into the ports; `start` begins once they are whole, `stop` waits for what runs. */
export class InProcessRunner {
  readonly bell: JobBell;
  #ports: Ports | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;
  #pass: Promise<void> | undefined;
  #again = false;
  #stopped = false;

  constructor() {
    this.bell = { ring: (runAt) => this.#arm(runAt) };
  }

  start(ports: Ports): void {
    this.#ports = ports;
    this.#arm(0);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#pass;
  }

  #arm(runAt: number): void {
    const ports = this.#ports;
    if (this.#stopped || ports === undefined) return;
    if (this.#pass !== undefined) {
      // Rung while running: the pass looks at the clock again before it sleeps.
      this.#again = true;
      return;
    }
    const wakeAt = Math.min(runAt, ports.clock.now() + MAX_SLEEP_MS);
    if (wakeAt >= this.#wakeAt) return;
    this.#wakeAt = wakeAt;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#run(ports), Math.max(0, wakeAt - ports.clock.now()));
  }

  #run(ports: Ports): void {
    this.#wakeAt = Number.POSITIVE_INFINITY;
    this.#pass = this.#drain(ports)
      .catch((error) => {
        ports.log.error("job runner", { error });
        return ports.clock.now() + 1000;
      })
      .then((next) => {
        this.#pass = undefined;
        // Rung after the last look at the outbox: what was committed then is in no `next`.
        this.#arm(this.#again ? 0 : next);
      });
  }

  async #drain(ports: Ports): Promise<number> {
    do {
      this.#again = false;
      while (!this.#stopped && (await runDueJobs(ports, WIDTH)) > 0);
    } while (this.#again && !this.#stopped);
    return (await nextDueAt(ports)) ?? Number.POSITIVE_INFINITY;
  }
}
