/**
 * The business calendar: Asia/Shanghai, a fixed +08:00 without summer time. Instants are UTC milliseconds,
 * intervals are half-open.
 */
const OFFSET_MS = 8 * 3_600_000;
const DAY_MS = 86_400_000;

export type BusinessDate = { year: number; month: number; day: number; msOfDay: number };

/** The calendar date and time of day in +08:00. Month is 1 to 12. */
export function toBusinessDate(at: number): BusinessDate {
  const local = new Date(at + OFFSET_MS);
  return {
    year: local.getUTCFullYear(),
    month: local.getUTCMonth() + 1,
    day: local.getUTCDate(),
    msOfDay: (((at + OFFSET_MS) % DAY_MS) + DAY_MS) % DAY_MS,
  };
}

/** The day in +08:00 an instant falls on, as `2026-11-22`. Such days sort as text. */
export function businessDay(at: number): string {
  return new Date(at + OFFSET_MS).toISOString().slice(0, 10);
}

/** The day so many days after (before, where negative) another. */
export function shiftDay(day: string, days: number): string {
  return new Date(Date.parse(day) + days * DAY_MS).toISOString().slice(0, 10);
}

export function daysInMonth(year: number, month: number): number {
  return new Date(Date.UTC(year, month, 0)).getUTCDate();
}

/** The day of the month that a resource's periods keep: that of its first start. */
export function anchorDayOf(at: number): number {
  return toBusinessDate(at).day;
}

/**
 * The instant `months` after `from`, on the anchor day, clamped to the length of the month it falls in
 * (31 Jan → 28 Feb → 31 Mar). Steps always from the anchor day, never from a clamped date, so that
 * addMonths(addMonths(t, a), b) = addMonths(t, a + b).
 */
export function addMonths(from: number, months: number, anchorDay: number): number {
  const { year, month, msOfDay } = toBusinessDate(from);
  const index = year * 12 + (month - 1) + months;
  const y = Math.floor(index / 12);
  const m = (index % 12) + 1;
  const day = Math.min(anchorDay, daysInMonth(y, m));
  return Date.UTC(y, m - 1, day) + msOfDay - OFFSET_MS;
}
