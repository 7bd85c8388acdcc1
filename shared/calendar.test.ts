import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../control-plane/testing/note.ts";
import { addMonths, anchorDayOf, businessDay, daysInMonth, shiftDay, toBusinessDate } from "./calendar.ts";

const DAY_MS = 86_400_000;
/** Midnight of a day in +08:00. */
const shanghai = (year: number, month: number, day: number, ms = 0) => Date.UTC(year, month - 1, day, -8) + ms;

test("the calendar is that of +08:00: a day begins at 16:00 UTC of the day before", () => {
  expect(toBusinessDate(Date.UTC(2026, 0, 31, 16))).toEqual({ year: 2026, month: 2, day: 1, msOfDay: 0 });
  expect(toBusinessDate(Date.UTC(2026, 0, 31, 15, 59, 59, 999))).toEqual({
    year: 2026,
    month: 1,
    day: 31,
    msOfDay: DAY_MS - 1,
  });
  expect(toBusinessDate(shanghai(1969, 12, 31, 5))).toEqual({ year: 1969, month: 12, day: 31, msOfDay: 5 });
});

test("31 January is followed by the last of February and by 31 March", () => {
  const start = shanghai(2027, 1, 31, 12 * 3_600_000);
  const date = (months: number) => {
    const { month, day, msOfDay } = toBusinessDate(addMonths(start, months, 31));
    return [month, day, msOfDay];
  };
  expect([1, 2, 3, 13].map(date)).toEqual([
    [2, 28, 43_200_000],
    [3, 31, 43_200_000],
    [4, 30, 43_200_000],
    [2, 29, 43_200_000],
  ]);
});

test("for every start day of four years, 48 months tile with no gap and no overlap, and keep the anchor day", () => {
  for (let start = shanghai(2026, 1, 1, 3_600_000); start < shanghai(2030, 1, 1); start += DAY_MS) {
    const anchor = anchorDayOf(start);
    let end = start;
    for (let month = 1; month <= 48; month++) {
      const next = addMonths(end, 1, anchor);
      // A period stepped month by month ends where the whole stretch ends: nothing between, nothing twice.
      if (next !== addMonths(start, month, anchor)) throw new Error(`${new Date(start).toISOString()} + ${month}`);
      const { year, month: m, day } = toBusinessDate(next);
      if (next <= end || day !== Math.min(anchor, daysInMonth(year, m)))
        throw new Error(`${new Date(next).toISOString()}`);
      end = next;
    }
  }
});

test("a renewal of a months and then of b ends where one of a + b does", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: Date.UTC(2020, 0), max: Date.UTC(2050, 0) }),
      fc.nat(60),
      fc.nat(60),
      (start, a, b) => {
        const anchor = anchorDayOf(start);
        expect(addMonths(addMonths(start, a, anchor), b, anchor)).toBe(addMonths(start, a + b, anchor));
      },
    ),
    { seed: propertySeed("renewals"), numRuns: 2000 },
  );
});

test("a business day begins at 16:00 UTC, and days are stepped over months and leap years", () => {
  expect(businessDay(shanghai(2026, 2, 1))).toBe("2026-02-01");
  expect(businessDay(shanghai(2026, 2, 1) - 1)).toBe("2026-01-31");
  expect(shiftDay("2028-02-28", 1)).toBe("2028-02-29");
  expect(shiftDay("2026-01-01", -1)).toBe("2025-12-31");
});
