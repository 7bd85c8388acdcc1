import { sql } from "drizzle-orm";
import { index, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { TaskOutcome } from "../../../shared/protocol/tasks.ts";
import { id, instant, json } from "./columns.ts";
import { hosts } from "./hosts.ts";

export const TASK_STATES = ["waiting", "sent", "ended"] as const;

/** An event of a task as it is kept in its row. */
export type KeptTaskEvent = { seq: number; data: unknown };

/**
 * What hosts are asked to do once. Whoever asks writes the row, the process that holds the host's link sends it and writes
 * the outcome. Rows go a day after their deadline.
 */
export const tasks = sqliteTable(
  "tasks",
  {
    id: id("tsk").primaryKey(),
    hostId: id("hst")
      .notNull()
      .references(() => hosts.id),
    kind: text().notNull(),
    /** Null once it ended: nobody needs them any more, and some hold keys sealed to the host. */
    params: json<unknown>(),
    /** What it is part of, such as a capture: all tasks of one subject can be cancelled together. */
    subject: text(),
    state: text({ enum: TASK_STATES }).notNull(),
    deadlineAt: instant().notNull(),
    cancelledAt: instant(),
    /** Epoch of the session it was sent over: a newer one of that host means that nobody waits for its end. */
    epoch: integer(),
    /** The latest events, for whoever asked in another process while the bus is away. */
    events: json<KeptTaskEvent[]>().notNull(),
    outcome: json<TaskOutcome>(),
    /** The host's clock less ours, as its link measured it when the task ended. */
    clockOffsetMs: integer(),
    createdAt: instant().notNull(),
    endedAt: instant(),
  },
  (t) => [
    index("tasks_open").on(t.hostId).where(sql`state <> 'ended'`),
    index("tasks_subject").on(t.subject),
    index("tasks_deadline").on(t.deadlineAt),
  ],
);
