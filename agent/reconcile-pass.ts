import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { Plan, Step } from "./drivers/driver.ts";
import { sentence } from "./log.ts";
import type { AnyDriver } from "./reconcile.ts";
import type { RetryBook } from "./retry-book.ts";

export interface PassContext {
  wall: number;
  mono: number;
  retries: RetryBook;
  /** True when this pass is no longer wanted. */
  superseded(): boolean;
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

type Planned = { driver: AnyDriver; step: Step; key: string };

/**
 * One pass: plan with every driver, make the steps in order, then plan again with the drivers that changed something.
 * What the second plan still asks for failed, whatever the command said.
 */
export async function runPass(
  drivers: readonly AnyDriver[],
  items: readonly StateItem[],
  context: PassContext,
): Promise<PassOutcome | "superseded"> {
  const outcome: PassOutcome = { errors: new Map(), done: [], failed: [], waiting: 0 };
  const planned = await planAll(drivers, items, context, outcome);
  const touched = new Set<AnyDriver>();
  const tried: Planned[] = [];
  const failedKeys = new Set<string>();
  for (const entry of planned) {
    if (context.superseded()) return "superseded";
    const { driver, step, key } = entry;
    const waiting = context.retries.waiting(key, context.mono);
    if (waiting !== undefined) {
      outcome.waiting += 1;
      blameStep(outcome, step, waiting);
      continue;
    }
    touched.add(driver);
    tried.push(entry);
    try {
      await driver.apply(step);
    } catch (error) {
      failedKeys.add(key);
      fail(outcome, context, key, step, sentence(error));
    }
  }
  const left = new Map<string, Step>();
  for (const driver of touched) {
    if (context.superseded()) return "superseded";
    for (const entry of await planOne(driver, items, context, outcome)) left.set(entry.key, entry.step);
  }
  for (const { step, key } of tried) {
    const still = left.get(key);
    left.delete(key);
    if (failedKeys.has(key)) continue;
    if (still) fail(outcome, context, key, still, `verify: still so after the change: ${still.what}`);
    else {
      context.retries.succeeded(key);
      outcome.done.push(step);
    }
  }
  // Something new turned up behind what was made: the next pass, soon, takes care of it.
  for (const [key, step] of left)
    if (context.retries.waiting(key, context.mono) === undefined)
      fail(outcome, context, key, step, `verify: ${step.what}`);
  return outcome;
}

async function planAll(
  drivers: readonly AnyDriver[],
  items: readonly StateItem[],
  context: PassContext,
  outcome: PassOutcome,
): Promise<Planned[]> {
  const all: Planned[] = [];
  for (const driver of drivers) all.push(...(await planOne(driver, items, context, outcome)));
  context.retries.keepOnly(new Set([...all.map((p) => p.key), ...drivers.map((d) => d.name)]));
  return all.sort((a, b) => a.step.order - b.step.order);
}

/** A driver that can't even look fails all its items, and no other driver's. */
async function planOne(
  driver: AnyDriver,
  items: readonly StateItem[],
  context: PassContext,
  outcome: PassOutcome,
): Promise<Planned[]> {
  let plan: Plan;
  try {
    plan = driver.plan(await driver.observe(items), items, context.wall);
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
  }
  context.retries.succeeded(driver.name);
  for (const { item, error } of plan.refused) outcome.errors.set(item, error);
  return plan.steps.map((step) => ({ driver, step, key: keyOf(driver, step) }));
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
