import type { Id } from "../../shared/ids.ts";
import { type TaskOutcome, taskSignedBytes } from "../../shared/protocol/tasks.ts";
import type { KeptTaskEvent } from "../db/schema/index.ts";
import type { Ports } from "../ports/index.ts";
import { type Context, systemContext } from "../services/context.ts";
import { endTask, keepTaskEvents, openTasks, type Task, takeTask } from "../services/tasks/carry.ts";
import type { Link } from "./link.ts";
import type { Links } from "./links.ts";

/** So many of a task's latest events, and so many characters of them, are kept in its row. */
const KEPT_EVENTS = 200;
const KEPT_CHARACTERS = 64 * 1024;

/** A task that a host of this process has. */
type Carried = {
  readonly link: Link;
  cancelled: boolean;
  events: { event: KeptTaskEvent; characters: number }[];
  /** There are events that the row does not have. */
  dirty: boolean;
  outcome?: TaskOutcome;
};

/** Who asked, here or in another process. */
export interface Asker {
  /** True when it is this process: it needs no events from the row. */
  isHere(id: Id<"tsk">): boolean;
  event(id: Id<"tsk">, seq: number, data: unknown): void;
  ended(id: Id<"tsk">): void;
}

/**
 * Carries tasks to the hosts that are linked to this process: takes their rows, sends them signed, and writes what comes
 * back. An event counts only when it comes over the link that was given the task.
 */
export class TaskCarrier {
  #context: Context | undefined;
  readonly #links: Links;
  readonly #asker: Asker;
  readonly #carried = new Map<Id<"tsk">, Carried>();
  #flushing = false;

  constructor(links: Links, asker: Asker) {
    this.#links = links;
    this.#asker = asker;
  }

  start(ports: Ports): void {
    this.#context = systemContext(ports, "link");
  }

  get #ctx(): Context {
    if (this.#context === undefined) throw new Error("the carrier was not started");
    return this.#context;
  }

  /** Looks for tasks to send and to cancel, of these hosts or of all that are linked here. */
  async look(hostIds?: readonly Id<"hst">[]): Promise<void> {
    const here = hostIds?.filter((id) => this.#links.of(id) !== undefined);
    if (here?.length === 0) return;
    for (const task of await openTasks(this.#ctx, here)) {
      const link = this.#links.of(task.hostId);
      if (link?.hello === undefined) continue;
      if (task.state === "sent") this.#cancel(task.id);
      else if (await takeTask(this.#ctx, task.id, link.hello.epoch)) await this.#send(task, link);
    }
  }

  async #send(task: Task, link: Link): Promise<void> {
    const { signer } = this.#ctx.ports;
    const { id, hostId, kind, params } = task;
    this.#carried.set(id, { link, cancelled: false, events: [], dirty: false });
    // The host compares with its own clock: one that is a day off must still take tasks.
    const deadlineAt = task.deadlineAt + (link.clockOffsetMs ?? 0);
    const value = await signer.sign(taskSignedBytes({ hostId, id, kind, params, deadlineAt }));
    // The link may have gone while the task was taken and signed: nobody would ever end it.
    if (!this.#links.has(link)) return this.#lost(id);
    this.#links.send(link, { t: "task", id, kind, params, deadlineAt, signature: { keyId: signer.keyId, value } });
  }

  #cancel(id: Id<"tsk">): void {
    const carried = this.#carried.get(id);
    if (carried === undefined || carried.cancelled) return;
    carried.cancelled = true;
    this.#links.send(carried.link, { t: "task.cancel", id });
  }

  event(link: Link, id: Id<"tsk">, seq: number, data: unknown): void {
    const carried = this.#carried.get(id);
    if (carried?.link !== link || carried.outcome !== undefined) return;
    this.#asker.event(id, seq, data);
    if (this.#asker.isHere(id)) return;
    carried.events.push({ event: { seq, data }, characters: JSON.stringify(data ?? null).length });
    let characters = carried.events.reduce((sum, kept) => sum + kept.characters, 0);
    while (carried.events.length > KEPT_EVENTS || characters > KEPT_CHARACTERS)
      characters -= carried.events.shift()?.characters ?? 0;
    carried.dirty = true;
  }

  end(link: Link, id: Id<"tsk">, outcome: TaskOutcome): void {
    const carried = this.#carried.get(id);
    if (carried?.link !== link || carried.outcome !== undefined) return;
    carried.outcome = outcome;
    this.#settle(id, carried).catch((error) => this.#complain(id, error));
  }

  /** The link is gone: its tasks end as lost. */
  left(link: Link): void {
    for (const [id, carried] of this.#carried) if (carried.link === link) this.#lost(id);
  }

  #lost(id: Id<"tsk">): void {
    const carried = this.#carried.get(id);
    if (carried === undefined) return;
    const detail = "The host's link was lost before the task ended.";
    this.end(carried.link, id, { ok: false, error: { code: "link_lost", detail } });
  }

  /** Writes what is not in the rows yet: events for other processes, and outcomes that could not be written at once. */
  async flush(): Promise<void> {
    if (this.#flushing) return;
    this.#flushing = true;
    try {
      for (const [id, carried] of this.#carried)
        if (carried.outcome !== undefined) await this.#settle(id, carried);
        else if (carried.dirty) {
          carried.dirty = false;
          await keepTaskEvents(this.#ctx, id, kept(carried));
        }
    } finally {
      this.#flushing = false;
    }
  }

  async #settle(id: Id<"tsk">, carried: Carried): Promise<void> {
    const { outcome, link } = carried;
    if (outcome === undefined) return;
    await endTask(this.#ctx, id, { outcome, events: kept(carried), clockOffsetMs: link.clockOffsetMs });
    this.#carried.delete(id);
    this.#asker.ended(id);
  }

  #complain(id: Id<"tsk">, error: unknown): void {
    this.#ctx.ports.log.error("could not write a task's outcome; trying again", { task: id, error });
  }
}

function kept(carried: Carried): KeptTaskEvent[] {
  return carried.events.map(({ event }) => event);
}
