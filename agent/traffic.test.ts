import fc from "fast-check";
import { expect, test } from "vitest";
import { type Traffic, TrafficBook } from "./traffic.ts";

/** A book that keeps what it saves, and can be opened again. */
class Bench {
  kept: Traffic | null = null;
  book!: TrafficBook;
  constructor() {
    this.open();
  }
  open(boot = "b1"): void {
    this.book = new TrafficBook(boot, this.kept && structuredClone(this.kept), (t) => {
      this.kept = structuredClone(t);
    });
  }
  look(flows: Record<string, number>, items = ["r"]): number | undefined {
    const counted = Object.entries(flows).map(([key, bytes]) => ({ key, bytes, item: "r" }));
    return this.book.look(counted, items).get("r");
  }
}

test("bytes stay counted when their flow ends, and another flow with its addresses counts anew", () => {
  const bench = new Bench();
  expect(bench.look({ a: 100, b: 5 })).toBe(105);
  expect(bench.look({ b: 5 })).toBe(105);
  expect(bench.look({ b: 3 })).toBe(108);
});

test("a flow ended by us counts to its last byte", () => {
  const bench = new Bench();
  bench.look({ a: 100 });
  bench.book.ended({ key: "a", bytes: 140 });
  bench.book.ended({ key: "short", bytes: 7, item: "r" });
  expect(bench.look({ a: 10 })).toBe(157);
});

test("a restarted agent goes on where it was; after a reboot the kernel's counts begin anew and ours go on", () => {
  const bench = new Bench();
  bench.look({ a: 100 });
  bench.open();
  expect(bench.look({ a: 130 })).toBe(130);
  bench.open("b2");
  expect(bench.look({ a: 200 })).toBe(330);
});

test("an item that has gone is told a last time, with what it carried to the end", () => {
  const bench = new Bench();
  bench.look({ a: 100 });
  bench.book.ended({ key: "a", bytes: 120 });
  expect(bench.look({}, [])).toBe(120);
  expect(bench.look({}, [])).toBeUndefined();
  expect(bench.kept?.totals).toEqual({});
});

test("a process whose child is between its end and its parent's account is not counted twice", () => {
  const bench = new Bench();
  const look = (bytes: number) => bench.book.look([{ key: "p", item: "r", bytes, process: true }], ["r"]).get("r");
  expect([look(100), look(40), look(110)]).toEqual([100, 100, 110]);
});

test("whatever flows come, grow, end, and however often the agent restarts: each byte counts once", () => {
  const step = fc.record({
    flow: fc.nat(3),
    grow: fc.nat(1000),
    end: fc.constantFrom("no", "told", "idle"),
    open: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const bench = new Bench();
      const living = new Map<string, number>();
      let names = 0;
      let real = 0;
      for (const { flow, grow, end, open } of steps) {
        const key = [...living.keys()][flow] ?? `f${names++}`;
        living.set(key, (living.get(key) ?? 0) + grow);
        real += grow;
        if (end === "told") bench.book.ended({ key, bytes: living.get(key) ?? 0, item: "r" });
        else if (bench.look(Object.fromEntries(living)) !== real) return false;
        if (end !== "no") living.delete(key);
        if (open && end !== "told") bench.open();
      }
      return bench.look(Object.fromEntries(living)) === real;
    }),
    { numRuns: 2000 },
  );
});
