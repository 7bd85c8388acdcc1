import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Exec } from "../exec.ts";
import { mergeRanges, type Range, readRanges, sameRanges } from "./cidr.ts";
import { type Driver, itemsOf, ORDER, type Plan, type Step } from "./driver.ts";
import { defaultInterface } from "./links.ts";
import { type FingerprintStore, forwarding, NftTable } from "./nft.ts";
import { addAddresses, readAddresses } from "./resolver-set.ts";
import { EXIT_TABLE, exitRuleset, fillSet, type Guard, guardsOf, namesSet, setName } from "./whitelist-plan.ts";

export interface WhitelistSeen {
  defaultInterface: string | undefined;
  /** Ranges by set name; null: no table of ours. */
  sets: Map<string, Range[]> | null;
  rulesOurs: boolean;
  forwarding: boolean;
}

export type WhitelistStep = Step &
  (
    | { kind: "replace"; guards: Guard[] }
    | { kind: "fill"; tunnel: string; ranges: Range[] }
    | { kind: "remove" | "forwarding" }
  );

/**
 * What may leave the tunnels. A tunnel that has no whitelist item is guarded too, and nothing leaves it. Which
 * addresses listed names stand for is the resolver driver's; this one makes the set they are in, and keeps it when the
 * rules around it are replaced.
 */
export class WhitelistDriver implements Driver<WhitelistSeen, WhitelistStep> {
  readonly name = "whitelist";
  readonly types = ["whitelist"] as const;
  readonly concern = (items: readonly StateItem[]) => [
    itemsOf(items, "whitelist"),
    itemsOf(items, "wireguard").map(({ interface: tunnel, mtu }) => [tunnel, mtu]),
  ];
  readonly #exec: Exec;
  readonly #table: NftTable;

  constructor(exec: Exec, store: FingerprintStore) {
    this.#exec = exec;
    this.#table = new NftTable(EXIT_TABLE, exec, store, (set) => /^(wl4|dom4)_/.test(set), { checkFirst: true });
  }

  async observe(items: readonly StateItem[]): Promise<WhitelistSeen> {
    const listing = await this.#table.list();
    const out = await defaultInterface(this.#exec);
    const { guards } = guardsOf(items, out);
    const sets = new Map<string, Range[]>();
    for (const [name, elements] of listing?.elements ?? [])
      if (name.startsWith("wl4_")) sets.set(name, mergeRanges(readRanges(elements)));
    return {
      defaultInterface: out,
      sets: listing && sets,
      rulesOurs: listing !== null && this.#table.isOurs(exitRuleset(guards), listing),
      forwarding: guards.length === 0 || (await forwarding.isOn(this.#exec)),
    };
  }

  plan(seen: WhitelistSeen, items: readonly StateItem[]): Plan<WhitelistStep> {
    const { guards, refused } = guardsOf(items, seen.defaultInterface);
    const idsOf = (some: readonly Guard[]) => some.flatMap((g) => (g.item === null ? [] : [g.item]));
    const base = { cause: "differs" as const, order: ORDER.guard, items: idsOf(guards) };
    if (guards.length === 0) {
      const what = "exit table without any tunnel";
      return { steps: seen.sets ? [{ ...base, kind: "remove", what, order: ORDER.unguard }] : [], refused };
    }
    const steps: WhitelistStep[] = [];
    if (!seen.sets || !seen.rulesOurs) {
      const what = seen.sets ? "exit rules differ" : "exit table is missing";
      steps.push({ ...base, kind: "replace", what, guards });
    } else {
      for (const guard of guards) {
        const held = seen.sets.get(setName(guard.tunnel)) ?? [];
        if (sameRanges(held, guard.ranges)) continue;
        const what = `whitelist of ${guard.tunnel}: ${held.length} ranges held, ${guard.ranges.length} wanted`;
        steps.push({ ...base, items: idsOf([guard]), kind: "fill", what, tunnel: guard.tunnel, ranges: guard.ranges });
      }
    }
    // After the table: a host that forwards before it has its rules would be an open door.
    if (!seen.forwarding)
      steps.push({ ...base, kind: "forwarding", what: "IPv4 forwarding is off", order: ORDER.guard + 1 });
    return { steps, refused };
  }

  async apply(step: WhitelistStep): Promise<void> {
    switch (step.kind) {
      case "forwarding":
        // Fail closed: when the table could not be loaded there is nothing that would refuse a packet.
        if (!(await this.#table.list())) throw new Error("not turned on: the exit table is missing");
        return forwarding.turnOn(this.#exec);
      case "remove":
        return this.#table.remove();
      case "replace": {
        const text = exitRuleset(step.guards);
        const filled = step.guards.map((g) => fillSet(g.tunnel, g.ranges)).join("");
        const kept = new Map<string, string[]>();
        for (const [name, elements] of (await this.#table.list())?.elements ?? [])
          if (name.startsWith("dom4_"))
            kept.set(
              name,
              readAddresses(elements).map(({ address }) => address),
            );
        const names = step.guards.filter((g) => g.names).map((g) => namesSet(g.tunnel));
        const known = names.map((name) => addAddresses(name, kept.get(name) ?? [])).join("");
        return this.#table.replace(text, text + filled + known);
      }
      case "fill":
        // Emptied and filled in one transaction: faster than a difference of intervals, and as atomic.
        return this.#table.change(
          `flush set ip ${EXIT_TABLE} ${setName(step.tunnel)}\n${fillSet(step.tunnel, step.ranges)}`,
        );
    }
  }
}
