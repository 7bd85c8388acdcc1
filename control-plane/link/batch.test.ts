import { expect, test } from "vitest";
import { Batch } from "./batch.ts";

/** A batch whose turns and runs a test commands. */
function make(most: number, answer: (item: number) => number | Error = (item) => item * 10, mostWaiting = 1000) {
  const turns: { ms: number; fn(): void }[] = [];
  const clock = { now: 1000 };
  const runs: { items: readonly number[]; end(error?: Error): void }[] = [];
  const batch = new Batch<number, number>(
    (items) =>
      new Promise((resolve, reject) => {
        runs.push({ items, end: (error) => (error ? reject(error) : resolve(items.map(answer))) });
      }),
    {
      monotonic: () => clock.now,
      delay(ms, fn) {
        const turn = { ms, fn };
        turns.push(turn);
        return () => void turns.splice(turns.indexOf(turn), 1);
      },
    },
    { most, mostWaiting, spacingMs: (members) => 10 * (members - 1) },
  );
  const turn = () => turns.shift()?.fn();
  return { batch, turns, turn, clock, runs };
}
const settle = () => new Promise((done) => setTimeout(done, 0));
const statuses = (outcomes: readonly PromiseSettledResult<unknown>[]) => outcomes.map(({ status }) => status);

test("what is asked within one turn is done together, in order, at most so many at once", async () => {
  const { batch, turn, runs } = make(3);
  const answers = Promise.all([1, 2, 3, 4, 5].map((item) => batch.ask(item)));
  expect(runs).toEqual([]);
  turn();
  runs[0]?.end();
  await settle();
  turn();
  runs[1]?.end();
  expect(await answers).toEqual([10, 20, 30, 40, 50]);
  expect(runs.map(({ items }) => items)).toEqual([
    [1, 2, 3],
    [4, 5],
  ]);
});

test("one batch runs at a time, and the event loop has a turn between two: what is asked meanwhile waits for the next", async () => {
  const { batch, turn, turns, runs } = make(2);
  const first = batch.ask(1);
  turn();
  const others = [batch.ask(2), batch.ask(3), batch.ask(4)];
  await settle();
  expect([turns.length, runs.length]).toEqual([0, 1]);
  runs[0]?.end();
  expect(await first).toBe(10);
  await settle();
  expect([turns.length, runs.length]).toEqual([1, 1]);
  turn();
  runs[1]?.end();
  await settle();
  turn();
  runs[2]?.end();
  expect(await Promise.all(others)).toEqual([20, 30, 40]);
});

test("one that fails fails alone", async () => {
  const { batch, turn, runs } = make(3, (item) => (item === 2 ? new Error("two") : item));
  const answers = Promise.allSettled([1, 2, 3].map((item) => batch.ask(item)));
  turn();
  runs[0]?.end();
  expect(statuses(await answers)).toEqual(["fulfilled", "rejected", "fulfilled"]);
});

test("when a batch is lost as a whole each member is run alone, and what it was lost for fails alone; the next is as ever", async () => {
  const { batch, turn, runs } = make(3);
  const answers = Promise.allSettled([1, 2, 3].map((item) => batch.ask(item)));
  turn();
  runs[0]?.end(new Error("all"));
  // One after another: what runs at the same time would be a storm of its own.
  for (const item of [1, 2, 3]) {
    await settle();
    expect(runs.slice(1).map(({ items }) => items)).toEqual([[1], [2], [3]].slice(0, item));
    runs[item]?.end(item === 2 ? new Error("two") : undefined);
  }
  expect(statuses(await answers)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  const next = batch.ask(6);
  turn();
  expect(runs).toHaveLength(5);
  runs[4]?.end();
  expect(await next).toBe(60);
});

test("when a batch is lost for a reason that is no member's own, the others are not tried one by one", async () => {
  const { batch, turn, runs } = make(9);
  const answers = Promise.allSettled([1, 2, 3, 4, 5, 6].map((item) => batch.ask(item)));
  turn();
  for (let run = 0; run < 3; run++) {
    await settle();
    runs[run]?.end(new Error("the database is away"));
  }
  expect(statuses(await answers)).toEqual(Array(6).fill("rejected"));
  expect(runs.map(({ items }) => items.length)).toEqual([6, 1, 1]);
});

test("the next batch waits for company as long as the last one's size asks for, unless it is full", async () => {
  const { batch, turn, turns, clock, runs } = make(3);
  const waits = () => turns.map(({ ms }) => ms);
  const asked = [batch.ask(1)];
  expect(waits()).toEqual([0]);
  turn();
  runs[0]?.end();
  await settle();
  asked.push(batch.ask(2), batch.ask(3));
  expect(waits()).toEqual([0]);
  turn();
  runs[1]?.end();
  await settle();
  clock.now += 0.5;
  asked.push(batch.ask(4));
  expect(waits()).toEqual([9.5]);
  asked.push(batch.ask(5));
  expect(waits()).toEqual([9.5]);
  asked.push(batch.ask(6));
  // The turn that was set is called off: the batch goes once.
  expect(waits()).toEqual([0]);
  turn();
  expect(runs.map(({ items }) => items)).toEqual([[1], [2, 3], [4, 5, 6]]);
  runs[2]?.end();
  await Promise.all(asked);
});

test("when too many wait whoever asks is refused at once, and may ask again when some have had their turn", async () => {
  const { batch, turn, runs } = make(2, undefined, 2);
  const first = [batch.ask(1), batch.ask(2)];
  await expect(batch.ask(3)).rejects.toThrow("2 wait for their turn already");
  turn();
  const again = batch.ask(3);
  runs[0]?.end();
  expect(await Promise.all(first)).toEqual([10, 20]);
  await settle();
  turn();
  runs[1]?.end();
  expect(await again).toBe(30);
});
