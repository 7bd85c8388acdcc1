/** Splits a list into lists that name no host twice, so that one statement can do each; what is of one host stays in order. */
export function rounds<T>(items: readonly T[], hostOf: (item: T) => string): T[][] {
  const made: T[][] = [];
  const seen = new Map<string, number>();
  for (const item of items) {
    const host = hostOf(item);
    const round = seen.get(host) ?? 0;
    seen.set(host, round + 1);
    const list = made[round];
    if (list === undefined) made.push([item]);
    else list.push(item);
  }
  return made;
}
