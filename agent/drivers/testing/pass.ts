import type { StateItem } from "../../../shared/protocol/desired-state.ts";
import type { AnyDriver } from "../../reconcile.ts";
import { type PassOutcome, runPass } from "../../reconcile-pass.ts";
import { RetryBook } from "../../retry-book.ts";

/** One reconcile pass with real drivers, without the loop around it. */
export async function pass(drivers: AnyDriver[], items: StateItem[], wall = Date.now()): Promise<PassOutcome> {
  const kept = { retries: new RetryBook(), ledger: new Map() };
  const outcome = await runPass(drivers, items, {
    ...kept,
    wall,
    mono: 0,
    look: "all",
    turned: () => {},
    superseded: () => false,
  });
  if (outcome === "superseded") throw new Error("a pass nobody superseded");
  return outcome;
}

/** Like {@link pass}, and nothing may fail; gives what was changed. */
export async function settle(drivers: AnyDriver[], items: StateItem[], wall = Date.now()): Promise<string[]> {
  const { failed, errors, done } = await pass(drivers, items, wall);
  if (failed.length > 0 || errors.size > 0)
    throw new Error(JSON.stringify({ failed: failed.map((f) => `${f.what}: ${f.error}`), errors: [...errors] }));
  return done.map((step) => step.what);
}

/** Fingerprints and interface names kept in memory, as a state directory that outlives the driver would. */
export function memoryStore() {
  const prints = new Map<string, string>();
  let names: string[] = [];
  return {
    fingerprint: (table: string) => prints.get(table) ?? null,
    saveFingerprint: (table: string, print: string) => void prints.set(table, print),
    interfaces: () => names,
    saveInterfaces: (next: readonly string[]) => {
      names = [...new Set(next)];
    },
  };
}
