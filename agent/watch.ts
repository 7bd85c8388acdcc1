import type { AgentFrame, HostEvent, Observation } from "../shared/protocol/frames.ts";
import type { Clock } from "./clock.ts";
import { ChangedOnly, OBSERVE_MS } from "./observe.ts";

export interface WatchDeps {
  clock: Clock;
  look(): Promise<Observation>;
  linked(): boolean;
  send(frame: AgentFrame): void;
}

const MOST_EVENTS = 1000;
const EVENTS_A_FRAME = 100;

/** Tells the control plane what the host sees, every 15 s, and what happened on it, at once or when there is a link again. */
export class Watch {
  readonly #deps: WatchDeps;
  readonly #changed = new ChangedOnly();
  readonly #stop = new AbortController();
  #wake = new AbortController();
  #events: HostEvent[] = [];

  constructor(deps: WatchDeps) {
    this.#deps = deps;
  }

  /** A new session: it is told everything, soon. */
  linked(): void {
    this.#changed.reset();
    this.#flush();
    this.#wake.abort();
  }

  /** Keeps events until they are told; the oldest go first when there are too many. */
  events(events: readonly HostEvent[]): void {
    this.#events.push(...events);
    if (this.#events.length > MOST_EVENTS) this.#events = this.#events.slice(-MOST_EVENTS);
    // Not within the turn that made them: it may be the session's own.
    setImmediate(() => this.#flush());
  }

  /** Values that others found, at once; dropped while there is no link, as they are of their moment. */
  tell(values: Observation): void {
    const { linked, send, clock } = this.#deps;
    if (linked()) send({ t: "observe", at: clock.wall(), values, events: [] });
  }

  #flush(): void {
    const { linked, send, clock } = this.#deps;
    while (this.#events.length > 0 && linked())
      send({ t: "observe", at: clock.wall(), values: {}, events: this.#events.splice(0, EVENTS_A_FRAME) });
  }

  async run(): Promise<void> {
    const { clock, look, linked, send } = this.#deps;
    while (!this.#stop.signal.aborted) {
      this.#wake = new AbortController();
      // Without a link too: what flows carry is counted by looking while they are there.
      const seen = await look();
      if (linked()) {
        const values = this.#changed.filter(seen);
        if (Object.keys(values).length > 0) send({ t: "observe", at: clock.wall(), values, events: [] });
      }
      if (this.#stop.signal.aborted) return;
      await clock.wait(OBSERVE_MS, this.#wake.signal);
    }
  }

  stop(): void {
    this.#stop.abort();
    this.#wake.abort();
  }
}
