import { z } from "zod";
import type { StateItem } from "./desired-state.ts";
import type { TaskKind } from "./tasks.ts";

/**
 * How releases of different age talk to each other.
 *
 * - A new optional field that an older reader may overlook needs nothing: readers let unknown fields pass.
 * - A new kind of item or task is listed here. Agents say in `hello` what they understand, and are sent nothing else.
 * - A change that an older reader would misread is a new wire version of its kind, listed here with the new number.
 * - A change of the frames themselves is a new sub-protocol; both sides offer all they speak, and the newest that both know
 *   is spoken.
 */

/** Sub-protocols this release speaks, newest first. */
export const SUBPROTOCOLS = ["trunkline.v1"] as const;

/** Wire version of each kind of item and task, as this release writes and reads them. */
export const ITEM_VERSIONS: Readonly<Record<StateItem["type"], number>> = {
  relay: 1,
  wireguard: 1,
  whitelist: 1,
  uplink: 1,
  linkProxy: 1,
  linkWays: 1,
};
export const TASK_VERSIONS: Readonly<Record<TaskKind, number>> = { ping: 1, capture: 1, uplink: 1, upgrade: 1 };

const versions = z
  .record(z.string().max(32), z.number().int().min(1).max(1000))
  .refine((kinds) => Object.keys(kinds).length <= 64, "too many kinds");
/** Kinds of items and tasks that an agent understands, each with the newest wire version of it. */
export const understandsSchema = z.object({ items: versions, tasks: versions });
export type Understands = z.infer<typeof understandsSchema>;

/** What this release's agent says. */
export const UNDERSTANDS: Understands = { items: { ...ITEM_VERSIONS }, tasks: { ...TASK_VERSIONS } };

/** What agents of before there was such a list understand, or answer themselves that they do not. */
export const FIRST_UNDERSTANDS: Understands = {
  items: { relay: 1, wireguard: 1, whitelist: 1, uplink: 1 },
  tasks: { ping: 1, capture: 1, uplink: 1, upgrade: 1 },
};

/** True when a host that said so (or, with null, nothing) understands items of that kind as this release writes them. */
export function understandsItem(said: Understands | null, kind: StateItem["type"]): boolean {
  return ((said ?? FIRST_UNDERSTANDS).items[kind] ?? 0) >= ITEM_VERSIONS[kind];
}

/** The same of tasks. */
export function understandsTask(said: Understands | null, kind: TaskKind): boolean {
  return ((said ?? FIRST_UNDERSTANDS).tasks[kind] ?? 0) >= TASK_VERSIONS[kind];
}
