/** A line for whoever reads the test's output: counts, seeds. */
export function note(text: string): void {
  process.stdout.write(`${text}\n`);
}
