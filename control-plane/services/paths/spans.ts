/** Buckets of a segment's series: five rounds each at first, folded into hours when they are older than a week. */
export const SHORT_SPAN_MS = 5 * 60_000;
export const LONG_SPAN_MS = 3_600_000;
