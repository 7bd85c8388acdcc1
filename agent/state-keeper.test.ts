import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { StateKeeper } from "./state-keeper.ts";
import type { KeptState } from "./state-store.ts";

const state = (rev: number): KeptState => ({ rev, sha256: String(rev), items: [] });

test("an accepted state is on disk a turn later, at once when someone is about to be told, and the newest is the last", async () => {
  const saved: number[] = [];
  const keeper = new StateKeeper(({ rev }) => void saved.push(rev));
  keeper.accept(state(1));
  expect(saved).toEqual([]);
  await turn();
  expect(saved).toEqual([1]);
  keeper.accept(state(2));
  keeper.flush();
  expect(saved).toEqual([1, 2]);
  keeper.accept(state(3));
  keeper.accept(state(4));
  await turn();
  keeper.flush();
  expect(saved).toEqual([1, 2, 4]);
});
