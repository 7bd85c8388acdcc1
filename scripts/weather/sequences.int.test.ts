import fc from "fast-check";
import { expect, test } from "vitest";
import { note, propertyRuns } from "../../control-plane/testing/note.ts";
import { deed, perform } from "./deeds.ts";
import { sharedOrigin } from "./shared-origin.ts";
import { World } from "./world.ts";

/** How long a fair world may take until every kernel is as it should be: a reconnect's and a retry's longest waits, and the silence before. */
const MOST_MS = 240_000;

/** Then the test ends with as many sequences as it had time for; `FC_MINUTES` gives it more. */
const LONGEST_MS = Number(process.env.FC_MINUTES ?? 1) * 60_000;

/** What every change replays. To look for more: another `FC_SEED`, and `FC_RUNS` and `FC_MINUTES` for longer. */
const USUAL_SEED = 38683281;
const USUAL_WORLDS = 120;

const origin = sharedOrigin();

/** In fair weather the world comes to rest as it should be; answers after how long. */
async function comesToRest(world: World): Promise<number> {
  world.calm();
  const { waited, ...wrong } = await world.rest(MOST_MS);
  expect(wrong).toEqual({ left: [], faults: [] });
  return waited;
}

test(
  "whatever was changed, lost, cut, killed, restored and edited by hand: in fair weather every kernel ends as desired",
  async () => {
    const counts: Record<string, number> = {};
    const calls: Record<string, number> = {};
    let sequences = 0;
    let slowest = 0;
    const sequence = fc.array(deed, { minLength: 2, maxLength: 14 });
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.array(sequence, { minLength: 1, maxLength: 8 }), async (seed, all) => {
        const world = await World.open(origin(), seed);
        try {
          await comesToRest(world);
          for (const deeds of all) {
            for (const one of deeds) {
              counts[one.do] = (counts[one.do] ?? 0) + 1;
              await perform(world, one);
              // What was begun is under way, not done, when the next thing happens.
              await world.time.advance(Math.floor(world.random() ** 3 * 300));
            }
            await world.check();
            slowest = Math.max(slowest, await comesToRest(world));
            sequences++;
          }
          for (const [name, times] of Object.entries(world.done)) calls[name] = (calls[name] ?? 0) + times;
        } finally {
          await world.close();
        }
      }),
      { ...propertyRuns("sequences", USUAL_WORLDS, USUAL_SEED), interruptAfterTimeLimit: LONGEST_MS },
    );
    note(`sequences: ${sequences} ended as desired, the slowest ${slowest / 1000} s after the weather`);
    note(`sequences: deeds ${JSON.stringify(counts)}`);
    note(`sequences: calls that went through ${JSON.stringify(calls)}`);
  },
  LONGEST_MS + 120_000,
);
