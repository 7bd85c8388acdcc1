/** The administrator as a command prints it once: `name: …` and `password: …` on lines of their own. */
export function printedAdmin(output: string): { name: string; password: string } {
  const name = output.match(/^ *name: (\S+)$/m)?.[1];
  const password = output.match(/^ *password: (\S+)$/m)?.[1];
  if (name === undefined || password === undefined) throw new Error(`no administrator was printed:\n${output}`);
  return { name, password };
}
