import { parseArgs } from "node:util";

/** What the command line asked for. */
export interface Arguments {
  bench: string | undefined;
  json: boolean;
  help: boolean;
  /** Only what was given: each bench has its own defaults. */
  numbers: Numbers;
}

/** The sizes a bench can be told. */
export type Numbers = Partial<Record<NumberOption, number>>;
const NUMBER_OPTIONS = ["agents", "rounds", "seconds", "changes", "rate", "sizes", "steps"] as const;
export type NumberOption = (typeof NUMBER_OPTIONS)[number];

/** A mistake of whoever runs the command. */
export class UsageError extends Error {}

/** Reads the command line. Throws {@link UsageError} with one sentence. */
export function readArguments(argv: readonly string[], benches: readonly string[]): Arguments {
  const { values, positionals } = parse(argv);
  const [bench, extra] = positionals;
  if (extra !== undefined) throw new UsageError(`"${extra}" is one word too many`);
  if (bench !== undefined && !benches.includes(bench)) throw new UsageError(`there is no bench "${bench}"`);
  const numbers: Numbers = {};
  for (const name of NUMBER_OPTIONS) {
    const text = values[name];
    if (text === undefined) continue;
    const value = Number(text);
    if (!Number.isInteger(value) || value < 1)
      throw new UsageError(`--${name} takes a whole number above 0, not "${text}"`);
    numbers[name] = value;
  }
  return { bench, json: values.json, help: values.help, numbers };
}

function parse(argv: readonly string[]) {
  const number = { type: "string" } as const;
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        json: { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
        agents: number,
        rounds: number,
        seconds: number,
        changes: number,
        rate: number,
        sizes: number,
        steps: number,
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message.split(". ")[0]);
  }
}
