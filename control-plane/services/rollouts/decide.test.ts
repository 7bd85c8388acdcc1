import fc from "fast-check";
import { expect, test } from "vitest";
import { ROLLOUT_HOST_STATES, ROLLOUT_STATES, type RolloutHostState } from "../../db/schema/index.ts";
import { propertySeed } from "../../testing/note.ts";
import { decide, type RolloutCounts } from "./decide.ts";

const counts = (
  canaries: Partial<Record<RolloutHostState, number>>,
  others: Partial<Record<RolloutHostState, number>>,
) => {
  const none = Object.fromEntries(ROLLOUT_HOST_STATES.map((state) => [state, 0]));
  return { canaries: { ...none, ...canaries }, others: { ...none, ...others } } as RolloutCounts;
};
const rollout = { state: "canary" as const, batch: 3, soakMs: 1000, waitUntil: null };

test("canaries first, at most a batch of them; the others only when every canary has ended", () => {
  expect(decide(rollout, counts({ pending: 5 }, { pending: 9 }), 0)).toMatchObject({ room: 3, canary: true });
  expect(decide(rollout, counts({ pending: 4, sent: 1 }, { pending: 9 }), 0)).toMatchObject({ room: 2, canary: true });
  const last = decide(rollout, counts({ sent: 1, committed: 4 }, { pending: 9 }), 0);
  expect(last).toMatchObject({ state: "canary", room: 0 });
});

test("then it waits, to the millisecond, and goes on in batches until nothing is open", () => {
  const afterCanaries = counts({ committed: 1 }, { pending: 9 });
  expect(decide(rollout, afterCanaries, 50)).toEqual({ state: "waiting", waitUntil: 1050, room: 0, canary: false });
  const waiting = { ...rollout, state: "waiting" as const, waitUntil: 1050 };
  expect(decide(waiting, afterCanaries, 1049).state).toBe("waiting");
  expect(decide(waiting, afterCanaries, 1050)).toEqual({ state: "rolling", waitUntil: null, room: 3, canary: false });
  const rolling = { ...rollout, state: "rolling" as const };
  expect(decide(rolling, counts({ committed: 1 }, { pending: 1, sent: 1, committed: 7 }), 0).room).toBe(1);
  expect(decide(rolling, counts({ committed: 1 }, { sent: 1, committed: 8 }), 0)).toMatchObject({
    state: "rolling",
    room: 0,
  });
  expect(decide(rolling, counts({ committed: 1 }, { committed: 8, failed: 1 }), 0).state).toBe("done");
});

test("one with canaries alone is done with them; one without a wait goes on at once", () => {
  expect(decide(rollout, counts({ committed: 2 }, {}), 0).state).toBe("done");
  expect(decide({ ...rollout, soakMs: 0 }, counts({ committed: 1 }, { pending: 1 }), 0)).toMatchObject({
    state: "rolling",
    room: 1,
  });
});

test("whatever the numbers: never more than a batch under way, never an other beside an open canary, nothing from an end", () => {
  const number = fc.integer({ min: 0, max: 20 });
  const some = fc.record(Object.fromEntries(ROLLOUT_HOST_STATES.map((state) => [state, number])));
  fc.assert(
    fc.property(
      fc.constantFrom(...ROLLOUT_STATES),
      some,
      some,
      fc.integer({ min: 1, max: 8 }),
      number,
      number,
      (state, c, o, batch, until, now) => {
        const all = { canaries: c, others: o } as RolloutCounts;
        const waitUntil = state === "waiting" ? until : null;
        const d = decide({ state, batch, soakMs: 5, waitUntil }, all, now);
        const underWay = all.canaries.sent + all.others.sent;
        expect(d.room).toBeGreaterThanOrEqual(0);
        if (d.room > 0) expect(underWay + d.room).toBeLessThanOrEqual(batch);
        expect(d.room).toBeLessThanOrEqual(all[d.canary ? "canaries" : "others"].pending);
        if (d.room > 0 && !d.canary) expect(all.canaries.pending).toBe(0);
        if (d.room > 0 && !d.canary && state === "canary") expect(all.canaries.sent).toBe(0);
        if (["halted", "done", "cancelled"].includes(state)) expect(d).toMatchObject({ state, room: 0 });
        if (d.state === "done" && state !== "done")
          expect(all.canaries.pending + all.canaries.sent + all.others.pending + all.others.sent).toBe(0);
        // Asked again at once it says the same.
        expect(decide({ state: d.state, batch, soakMs: 5, waitUntil: d.waitUntil }, all, now)).toEqual(d);
      },
    ),
    { seed: propertySeed("rollout decisions") },
  );
});
