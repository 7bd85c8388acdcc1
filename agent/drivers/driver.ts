import type { StateItem } from "../../shared/protocol/desired-state.ts";

/**
 * One change to the kernel that a plan asks for. `order` sorts the steps of all drivers: the whitelist stands before a
 * tunnel comes up and goes after it went, so there is never a tunnel without its whitelist.
 */
export interface Step {
  /** Items this step serves; empty when it only removes what no item asks for. */
  readonly items: readonly string[];
  /** One sentence for logs and for the operator: what differs. */
  readonly what: string;
  /** `expired`: a peer's time ran out; `routine`: what time brings, such as an address to renew. Neither is drift. */
  readonly cause: "differs" | "expired" | "routine";
  readonly order: number;
}

/** Steps in {@link Step.order}; smaller runs first. */
export const ORDER = { guard: 10, relay: 20, tunnel: 30, resolver: 40, unguard: 90 } as const;

export interface Plan<S extends Step = Step> {
  readonly steps: readonly S[];
  /** Items that can't be had on this host, and why: "code: sentence". */
  readonly refused: readonly { readonly item: string; readonly error: string }[];
}

/**
 * `all`: everything is read anew, which is how drift is found. `changed`: the items are new and the kernel held the old ones
 * when it was last looked at, so that what both have in common need not be read.
 */
export type Look = "all" | "changed";

/**
 * Keeps one kind of thing in the kernel equal to the desired items. Verifying is observing and planning again: an item
 * is verified when no step names it any more.
 */
export interface Driver<Seen = unknown, S extends Step = Step> {
  readonly name: string;
  /** Types of the items it answers for. */
  readonly types: readonly StateItem["type"][];
  /** Where several drivers share a type: which of its items are this one's. Default: all. */
  serves?(item: StateItem): boolean;
  /**
   * The part of a state that its plan depends on, as JSON could hold it. While that stays the same, and the kernel was seen
   * to hold it, a new state is no reason to look again. Default: its items.
   */
  concern?(items: readonly StateItem[], now: number): unknown;
  /** Reads what the kernel really holds. Changes nothing. */
  observe(items: readonly StateItem[], look?: Look): Promise<Seen>;
  /** Pure: the least change that makes the kernel hold exactly what `items` (the whole state) ask of this driver. */
  plan(seen: Seen, items: readonly StateItem[], now: number): Plan<S>;
  /** Makes one step true. Throws with a sentence; the step's items then count as failed and are tried again later. */
  apply(step: S): Promise<void>;
}

/** The items of one type. */
export function itemsOf<T extends StateItem["type"]>(
  items: readonly StateItem[],
  type: T,
): Extract<StateItem, { type: T }>[] {
  return items.filter((item): item is Extract<StateItem, { type: T }> => item.type === type);
}
