/** A line for whoever reads the test's output: counts, seeds. */
export function note(text: string): void {
  process.stdout.write(`${text}\n`);
}

/**
 * The seed of a property test: `FC_SEED` to replay one, otherwise the usual one, or a fresh one where there is none. Printed, so
 * that a failure can be replayed.
 */
export function propertySeed(name: string, usual = Date.now() % 2 ** 31): number {
  const seed = Number(process.env.FC_SEED ?? usual);
  note(`${name}: FC_SEED=${seed}`);
  return seed;
}
