import { parseArgs } from "node:util";
import fc from "fast-check";
import { deed, perform } from "./deeds.ts";
import { instantCrypto } from "./instant-crypto.ts";
import { Origin, World } from "./world.ts";

/**
 * Random sequences of deeds in worlds of their own, each ended by fair weather in which every kernel must come to be as desired. A
 * program rather than a test, so that two of them run on two cores, and without what a test runner adds to every call between
 * modules. Prints what it did, and the seed and path of what failed; then it ends with 1.
 */
const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    /** fast-check's name of one case of the seed, to replay it. */
    path: { type: "string" },
    worlds: { type: "string", default: "150" },
    /** After so long no further world is begun. */
    minutes: { type: "string", default: "1" },
  },
});

/** How long a fair world may take until every kernel is as it should be: a reconnect's and a retry's longest waits, and the silence before. */
const MOST_MS = 240_000;

/** In fair weather the world comes to rest as it should be; answers after how long. */
async function comesToRest(world: World): Promise<number> {
  world.calm();
  const { waited, ...wrong } = await world.rest(MOST_MS);
  if (wrong.left.length + wrong.faults.length > 0) throw new Error(JSON.stringify(wrong, null, 1));
  return waited;
}

const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const say = (text: string) => process.stdout.write(`sequences ${seed}: ${text}\n`);
say(`FC_SEED=${seed}`);
const origin = await Origin.make();
const asBefore = instantCrypto();
const counts: Record<string, number> = {};
const calls: Record<string, number> = {};
let sequences = 0;
let slowest = 0;
const sequence = fc.array(deed, { minLength: 2, maxLength: 14 });
try {
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.array(sequence, { minLength: 1, maxLength: 12 }), async (worldSeed, all) => {
      const world = await World.open(origin, worldSeed);
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
    {
      seed,
      ...(values.path === undefined ? {} : { path: values.path }),
      numRuns: Number(values.worlds),
      interruptAfterTimeLimit: Number(values.minutes) * 60_000,
    },
  );
} catch (error) {
  say(`${(error as Error).stack}\n${((error as Error).cause as Error | undefined)?.stack ?? ""}`);
  process.exitCode = 1;
} finally {
  asBefore();
  origin.remove();
}
say(`${sequences} ended as desired, the slowest ${slowest / 1000} s after the weather`);
say(`deeds ${JSON.stringify(counts)}`);
say(`calls that went through ${JSON.stringify(calls)}`);
// What was killed in a history may wait for ever.
process.exit();
