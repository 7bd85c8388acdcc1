import { spawn } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { note } from "../../control-plane/testing/note.ts";

/**
 * What every change replays. `FC_SEED` runs another alone, `FC_PATH` one case of it; `FC_RUNS` (worlds, of some five sequences
 * each) and `FC_MINUTES` look for more.
 */
const USUAL_SEEDS = ["38683281", "1063120957"];
const { FC_SEED, FC_PATH, FC_RUNS = "150", FC_MINUTES = "1" } = process.env;

/** Runs the program that has the sequences; answers its exit code. */
async function run(seed: string): Promise<number | null> {
  const path = FC_PATH === undefined ? [] : [`--path=${FC_PATH}`];
  const options = [`--seed=${seed}`, ...path, `--worlds=${FC_RUNS}`, `--minutes=${FC_MINUTES}`];
  const child = spawn(process.execPath, [join(import.meta.dirname, "sequences.ts"), ...options], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text) => note(text.trimEnd()));
  return new Promise((resolve) => child.on("exit", resolve));
}

test(
  "whatever was changed, lost, cut, killed, restored and edited by hand: in fair weather every kernel ends as desired",
  async () => {
    const seeds = FC_SEED === undefined ? USUAL_SEEDS : [FC_SEED];
    // Side by side: each keeps one core busy.
    expect(await Promise.all(seeds.map(run))).toEqual(seeds.map(() => 0));
  },
  Number(FC_MINUTES) * 60_000 + 120_000,
);
