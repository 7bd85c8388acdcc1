import fc from "fast-check";
import { expect, test } from "vitest";
import { fen } from "../../../shared/money.ts";
import { CHARGE_TYPES } from "../../db/schema/index.ts";
import { propertySeed } from "../../testing/note.ts";
import { MONTHS, priceOrder } from "./price.ts";

const price = (monthlyFen: number, quarter = 0, halfYear = 0, year = 0) => ({
  id: "products/a/regions/b",
  monthlyFen: fen(monthlyFen),
  quarterDiscountBps: quarter,
  halfYearDiscountBps: halfYear,
  yearDiscountBps: year,
});
const rate = fc.integer({ min: 0, max: 10_000 });

test("the lines of any price sum to its total, every amount a whole number of fen, none of it negative in sum", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1_000_000_000 }),
      fc.tuple(rate, rate, rate),
      fc.constantFrom(...CHARGE_TYPES),
      fc.integer({ min: 1, max: 36 }),
      fc.integer({ min: 1, max: 50 }),
      (monthly, rates, chargeType, periods, quantity) => {
        const { months, lines, totalFen } = priceOrder(price(monthly, ...rates), { chargeType, periods, quantity });
        expect(months).toBe(MONTHS[chargeType] * periods);
        expect(lines.every((line) => Number.isSafeInteger(line.amountFen))).toBe(true);
        expect(lines.reduce((sum, line) => sum + BigInt(line.amountFen), 0n)).toBe(BigInt(totalFen));
        expect(totalFen).toBeGreaterThanOrEqual(0);

        // The rules once more, in exact arithmetic: list, less the discount rounded half up once, times quantity.
        const list = BigInt(monthly) * BigInt(months);
        const bps = BigInt({ month: 0, quarter: rates[0], half_year: rates[1], year: rates[2] }[chargeType]);
        const discount = (2n * list * bps + 10_000n) / 20_000n;
        expect(BigInt(totalFen)).toBe((list - discount) * BigInt(quantity));
      },
    ),
    { seed: propertySeed("prices"), numRuns: 2000 },
  );
});

test("half a fen of discount is the customer's, once an item and not once an order", () => {
  // 3 × 1 fen less 50% is 1.5: the discount rounds up to 2, so one costs 1, and three cost 3 and not 4 or 5.
  const { lines, totalFen } = priceOrder(price(1, 5000), { chargeType: "quarter", periods: 1, quantity: 3 });
  expect(lines.map((line) => line.amountFen)).toEqual([3, -2, 2]);
  expect(totalFen).toBe(3);
});

test("a month has no discount, and a whole discount costs nothing", () => {
  expect(priceOrder(price(999, 9999, 9999, 9999), { chargeType: "month", periods: 2, quantity: 1 })).toMatchObject({
    months: 2,
    totalFen: 1998,
  });
  expect(priceOrder(price(999, 0, 0, 10_000), { chargeType: "year", periods: 1, quantity: 5 }).totalFen).toBe(0);
});
