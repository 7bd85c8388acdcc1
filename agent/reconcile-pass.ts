import { createHash } from "node:crypto";
import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { Look, Plan, Step } from "./drivers/driver.ts";
import { sentence } from "./log.ts";
import type { AnyDriver } from "./reconcile.ts";
import type { RetryBook } from "./retry-book.ts";

/** A driver's part of the kernel was seen to be as it should: for which part of the state, and what was refused of it. */
interface Settled {
  concern: string;
  refused: Plan["refused"];
}
export type Ledger = Map<AnyDriver, Settled>;

export interface PassContext {
  wall: number;
  mono: number;
  retries: RetryBook;
  /** `changed`: only with drivers whose part of the state is new or was not settled when they were last looked at. */
  look: Look;
  /** Kept from pass to pass. */
  ledger: Ledger;
  /** Every driver has looked. What they found and could not be settled is out of the ledger, so the next pass has it again. */
  lookedAtAll?(): void;
  /** Called after each look and each change: the pass is getting on. */
  turned(): void;
  /** True when this pass is no longer wanted; asked before a driver looks, and before something is done about it. */
  superseded(before: "looking" | "change"): boolean;
}

export interface PassOutcome {
  /** Why an item is not as it should be, by item; {@link REMOVAL} for what should be gone. */
  errors: Map<string, string>;
  /** Steps made and verified. */
  done: Step[];
  /** What was tried in this pass and failed. */
  failed: { step: Step | null; what: string; error: string }[];
  /** What failed earlier and whose time to be tried again has not come. */
  waiting: number;
}

/** Stands in {@link PassOutcome.errors} for all that no item asks for and that could not be taken away. */
export const REMOVAL = "removal";

type Planned = { driver: AnyDriver; concern: string; step: Step; key: string };

/** How often changes are made in one pass: what the first bring to light is seen to at once. */
const ROUNDS = 2;

/**
 * One pass: plan with the drivers to look with, make the steps in order, then plan again with those that changed something.
 * What the second plan still asks for failed, whatever the command said; what is new in it is made in a second round.
 */
export async function runPass(
  drivers: readonly AnyDriver[],
  items: readonly StateItem[],
  context: PassContext,
): Promise<PassOutcome | "superseded"> {
  const outcome: PassOutcome = { errors: new Map(), done: [], failed: [], waiting: 0 };
  let planned = await planAll(drivers, items, context, outcome);
  for (let round = 1; round <= ROUNDS && planned !== "superseded" && planned.length > 0; round++)
    planned = await make(planned, items, context, outcome);
  if (planned === "superseded") return planned;
  // There is no end to it: the next pass, soon, takes care of what is left.
  for (const { step, key } of planned) fail(outcome, context, key, step, `verify: ${step.what}`);
  return outcome;
}

/** Makes steps and verifies them. Gives the steps that nobody asked for before. */
async function make(
  planned: readonly Planned[],
  items: readonly StateItem[],
  context: PassContext,
  outcome: PassOutcome,
): Promise<Planned[] | "superseded"> {
  const touched = new Map<AnyDriver, string>();
  const tried: Planned[] = [];
  const failedKeys = new Set<string>();
  for (const entry of planned) {
    if (context.superseded("change")) return "superseded";
    const { driver, concern, step, key } = entry;
    const waiting = context.retries.waiting(key, context.mono);
    if (waiting !== undefined) {
      outcome.waiting += 1;
      blameStep(outcome, step, waiting);
      continue;
    }
    touched.set(driver, concern);
    tried.push(entry);
    try {
      await driver.apply(step);
    } catch (error) {
      failedKeys.add(key);
      fail(outcome, context, key, step, sentence(error));
    }
    context.turned();
  }
  const left = new Map<string, Planned>();
  for (const [driver, concern] of touched) {
    if (context.superseded("change")) return "superseded";
    for (const entry of await planOne(driver, concern, items, context, outcome)) left.set(entry.key, entry);
  }
  for (const { step, key } of tried) {
    const still = left.get(key)?.step;
    left.delete(key);
    if (failedKeys.has(key)) continue;
    if (still) fail(outcome, context, key, still, `verify: still so after the change: ${still.what}`);
    else {
      context.retries.succeeded(key);
      outcome.done.push(step);
    }
  }
  const fresh = [...left.values()].filter(({ key }) => context.retries.waiting(key, context.mono) === undefined);
  return fresh.sort((a, b) => a.step.order - b.step.order);
}

async function planAll(
  drivers: readonly AnyDriver[],
  items: readonly StateItem[],
  context: PassContext,
  outcome: PassOutcome,
): Promise<Planned[] | "superseded"> {
  const all: Planned[] = [];
  for (const driver of drivers) {
    const concern = concernOf(driver, items, context.wall);
    const settled = context.ledger.get(driver);
    if (context.look === "changed" && settled?.concern === concern) {
      refuse(outcome, settled.refused);
      continue;
    }
    if (context.superseded("looking")) return "superseded";
    all.push(...(await planOne(driver, concern, items, context, outcome)));
  }
  if (context.look === "all") context.lookedAtAll?.();
  context.retries.keepOnly(new Set([...all.map((p) => p.key), ...drivers.map((d) => d.name)]));
  return all.sort((a, b) => a.step.order - b.step.order);
}

/** A thousand items are many bytes to keep and compare. */
function concernOf(driver: AnyDriver, items: readonly StateItem[], now: number): string {
  const part = driver.concern ? driver.concern(items, now) : items.filter((item) => driver.types.includes(item.type));
  return createHash("sha256").update(JSON.stringify(part)).digest("base64");
}

/** A driver that can't even look fails all its items, and no other driver's. */
async function planOne(
  driver: AnyDriver,
  concern: string,
  items: readonly StateItem[],
  context: PassContext,
  outcome: PassOutcome,
): Promise<Planned[]> {
  let plan: Plan;
  context.ledger.delete(driver);
  try {
    plan = driver.plan(await driver.observe(items, context.look), items, context.wall);
  } catch (error) {
    const own = items
      .filter((item) => driver.types.includes(item.type) && (driver.serves?.(item) ?? true))
      .map((item) => item.id);
    const why = sentence(error);
    blame(outcome, own, why);
    if (!outcome.failed.some((f) => f.what === `look at ${driver.name}`))
      outcome.failed.push({ step: null, what: `look at ${driver.name}`, error: why });
    context.retries.failed(driver.name, why, context.mono);
    return [];
  } finally {
    context.turned();
  }
  context.retries.succeeded(driver.name);
  refuse(outcome, plan.refused);
  if (plan.steps.length === 0) context.ledger.set(driver, { concern, refused: plan.refused });
  return plan.steps.map((step) => ({ driver, concern, step, key: keyOf(driver, step) }));
}

function refuse(outcome: PassOutcome, refused: Plan["refused"]): void {
  for (const { item, error } of refused) outcome.errors.set(item, error);
}

/** The same trouble has the same key in the next pass, so that its back-off goes on. */
function keyOf(driver: AnyDriver, step: Step): string {
  const kind = (step as Step & { kind?: string }).kind ?? "";
  return [driver.name, kind, ...step.items, ...(step.items.length === 0 ? [step.what] : [])].join(" ");
}

function fail(outcome: PassOutcome, context: PassContext, key: string, step: Step, error: string): void {
  context.retries.failed(key, error, context.mono);
  outcome.failed.push({ step, what: step.what, error });
  blameStep(outcome, step, error);
}

function blame(outcome: PassOutcome, items: readonly string[], error: string): void {
  for (const item of items) if (!outcome.errors.has(item)) outcome.errors.set(item, error);
}

/** A step that only removes is nobody's: without a name of its own its failure would not be told. */
function blameStep(outcome: PassOutcome, step: Step, error: string): void {
  blame(outcome, step.items.length > 0 ? step.items : [REMOVAL], error);
}
