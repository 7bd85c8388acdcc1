import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../../testing/note.ts";
import { CLEAR_AFTER, judge, RAISE_AFTER, type Round, UNJUDGED } from "./hysteresis.ts";

const round = (received: number, p50Ms: number | null = received === 0 ? null : 10): Round => ({
  sent: 5,
  received,
  p50Ms,
});
const GOOD = round(5);
const BAD = round(4);

/** What the rounds turned, by the number of the round. */
function turns(rounds: readonly Round[]): string[] {
  let judged: Parameters<typeof judge>[0] = UNJUDGED;
  return rounds.flatMap((one, i) => {
    const next = judge(judged, one);
    judged = next;
    return next.turned === undefined ? [] : [`${next.turned} ${i + 1}`];
  });
}
const times = <T>(n: number, value: T): T[] => Array(n).fill(value);

test("an alarm is raised at the third bad round in a row and cleared at the fifth good one, not before", () => {
  expect([RAISE_AFTER, CLEAR_AFTER]).toEqual([3, 5]);
  expect(turns([GOOD, ...times(2, BAD), GOOD, ...times(2, BAD), GOOD])).toEqual([]);
  expect(turns([GOOD, ...times(3, BAD)])).toEqual(["degraded 4"]);
  expect(turns([GOOD, ...times(3, BAD), ...times(4, GOOD), BAD, ...times(4, GOOD)])).toEqual(["degraded 4"]);
  expect(turns([GOOD, ...times(3, BAD), ...times(5, GOOD), ...times(9, GOOD)])).toEqual(["degraded 4", "recovered 9"]);
});

test("one lost ping of five makes a round bad, none does not", () => {
  expect(turns([GOOD, ...times(3, round(4))])).toEqual(["degraded 4"]);
  expect(turns([GOOD, ...times(9, round(5))])).toEqual([]);
});

test("a target that never answered raises no alarm; one that did, and stops, does", () => {
  expect(turns(times(50, round(0)))).toEqual([]);
  expect(turns([...times(50, round(0)), GOOD, ...times(3, round(0))])).toEqual(["degraded 54"]);
});

test("a way that takes twice as long is bad without loss, by more than jitter; learned as the new normal it clears", () => {
  const slow = round(5, 250);
  expect(turns([...times(5, round(5, 100)), ...times(3, slow)])).toEqual(["degraded 8"]);
  expect(turns([...times(5, round(5, 1)), ...times(9, round(5, 15))])).toEqual([]);
  const learned = turns([...times(5, round(5, 100)), ...times(200, slow)]);
  expect(learned).toHaveLength(2);
  expect(learned[1]).toMatch(/^recovered/);
});

test("a round in which nothing was sent says nothing", () => {
  const nothing: Round = { sent: 0, received: 0, p50Ms: null };
  expect(turns([GOOD, BAD, BAD, ...times(20, nothing)])).toEqual([]);
  expect(turns([GOOD, BAD, BAD, nothing, BAD])).toEqual(["degraded 5"]);
});

test("whatever the rounds: turns alternate, and each had its full run of rounds before it", () => {
  const any = fc.array(fc.constantFrom(GOOD, BAD, round(0), round(5, 500)), { maxLength: 200 });
  fc.assert(
    fc.property(any, (rounds) => {
      const seen = turns(rounds);
      let last = 0;
      for (const [i, turn] of seen.entries()) {
        const [what, at] = turn.split(" ");
        expect(what).toBe(i % 2 === 0 ? "degraded" : "recovered");
        expect(Number(at) - last).toBeGreaterThanOrEqual(what === "degraded" ? RAISE_AFTER : CLEAR_AFTER);
        last = Number(at);
      }
    }),
    { seed: propertySeed("hysteresis") },
  );
});
