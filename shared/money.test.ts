import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../control-plane/testing/note.ts";
import { addFen, bps, discountOf, fen, mulDivHalfUp, negateFen, timesFen } from "./money.ts";

const amount = fc.maxSafeInteger().map((n) => fen(n));
const small = fc.integer({ min: -1_000_000_000, max: 1_000_000_000 }).map((n) => fen(n));

test("an amount that is no whole safe number of fen is refused", () => {
  for (const n of [0.1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, -(2 ** 53)])
    expect(() => fen(n), String(n)).toThrow(RangeError);
  for (const n of [-1, 10_001, 0.5, Number.NaN]) expect(() => bps(n), String(n)).toThrow(RangeError);
});

test("half a fen goes up, towards more, and less than half goes down", () => {
  const cases: [number, number, number, number][] = [
    [1, 1, 2, 1],
    [3, 1, 2, 2],
    [5, 1, 2, 3],
    [-1, 1, 2, 0],
    [-3, 1, 2, -1],
    [1, 1, 3, 0],
    [2, 1, 3, 1],
    [-2, 1, 3, -1],
    [999, 5000, 10_000, 500],
  ];
  for (const [a, n, d, expected] of cases)
    expect([a, n, d, mulDivHalfUp(fen(a), n, d) + 0]).toEqual([a, n, d, expected]);
});

test("amount × n ÷ d is rounded half up exactly once, whatever the sizes", () => {
  fc.assert(
    fc.property(
      small,
      fc.integer({ min: -1_000_000, max: 1_000_000 }),
      fc.integer({ min: 1, max: 1_000_000 }),
      (a, n, d) => {
        const result = BigInt(mulDivHalfUp(a, n, d));
        // floor(x + 1/2) in exact arithmetic: result is it when result ≤ x + 1/2 < result + 1.
        const twice = 2n * BigInt(a) * BigInt(n) + BigInt(d);
        return result * 2n * BigInt(d) <= twice && twice < (result + 1n) * 2n * BigInt(d);
      },
    ),
    { seed: propertySeed("half up"), numRuns: 2000 },
  );
});

test("sums and products that leave the safe range are refused, never rounded", () => {
  fc.assert(
    fc.property(amount, amount, fc.integer({ min: -1000, max: 1000 }), (a, b, n) => {
      const exact = (text: () => number, value: bigint) => {
        const safe = value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER);
        if (safe) expect(BigInt(text())).toBe(value);
        else expect(text).toThrow(RangeError);
      };
      exact(() => addFen(a, b), BigInt(a) + BigInt(b));
      exact(() => timesFen(a, n), BigInt(a) * BigInt(n));
    }),
    { seed: propertySeed("safe range"), numRuns: 1000 },
  );
});

test("a discount is between nothing and the whole", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1_000_000_000 }), fc.integer({ min: 0, max: 10_000 }), (a, rate) => {
      const off = discountOf(fen(a), bps(rate));
      return off >= 0 && off <= a;
    }),
    { seed: propertySeed("discount") },
  );
  expect(negateFen(fen(0))).toBe(0);
  expect(Object.is(negateFen(fen(0)), -0)).toBe(false);
});
