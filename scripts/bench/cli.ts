import { loadavg } from "node:os";
import { type Numbers, readArguments, UsageError } from "./arguments.ts";
import { Report } from "./report.ts";

/** A benchmark. Takes what it needs, measures both sides, and leaves nothing behind. Throws when it could not measure. */
export interface Bench {
  run(report: Report, numbers: Numbers): Promise<void>;
}

const BENCHES: Record<string, { what: string; load(): Promise<Bench> }> = {
  push: {
    what: "open a connection, against SSH to exit and forward, at 0 and 150 ms (root) [--rounds 20]",
    load: () => import("./push.ts"),
  },
  relay: {
    what: "UDP through boarding and forward, against socat and rules by hand (root) [--seconds 2] [--rounds 3]",
    load: () => import("./relay.ts"),
  },
  swarm: {
    what: "many agents on one process, against a bare ws server [--agents 10000] [--rate 1000] [--seconds 20] [--sizes 1] [--steps 1]",
    load: () => import("./swarm.ts"),
  },
  storm: {
    what: "kill -9 the control plane under many agents [--agents 10000]",
    load: () => import("./storm.ts"),
  },
  footprint: {
    what: "memory, CPU and start of agent and control plane, edge bundle (root) [--changes 1000] [--seconds 60] [--rounds 5]",
    load: () => import("./footprint.ts"),
  },
};

/** No bench takes longer, whatever hangs: it then ends with 1, and the next lab clears what it left. */
const LONGEST_MS = 20 * 60_000;

const HELP = `Usage: npm run bench -- NAME [--json] [options]

Measures both sides in one run on this machine and prints a table with the targets.

${Object.entries(BENCHES)
  .map(([name, { what }]) => `  ${name.padEnd(10)} ${what}`)
  .join("\n")}

  --sizes 3  (swarm) also with a hundredth and a tenth of the agents: what one operation costs at each size
  --steps 4  (swarm) also at a quarter, a half and three quarters of the rate: changes are asked for at their time, however
             late those before them are

  --json     one JSON object a line on standard output: {"bench","metric","value","unit","baseline","ratio"}; the rest goes
             to standard error. "ratio" is what the target speaks of: how many times faster for times to open, else
             value ÷ baseline.

Ends with 0 when it could measure, whether or not a target was met.
`;

async function main(argv: readonly string[]): Promise<number> {
  const { bench, json, help, numbers } = readArguments(argv, Object.keys(BENCHES));
  if (help || bench === undefined) {
    (help ? process.stdout : process.stderr).write(HELP);
    return help ? 0 : 2;
  }
  const report = new Report(bench, json);
  setTimeout(() => {
    process.stderr.write(`bench: no end after ${LONGEST_MS / 60_000} minutes\n`);
    process.exit(1);
  }, LONGEST_MS).unref();
  report.progress(`bench ${bench}; load average before: ${loadavg()[0]?.toFixed(2)}`);
  const module = await BENCHES[bench]?.load();
  await module?.run(report, numbers);
  report.end();
  return 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const usage = error instanceof UsageError;
  process.stderr.write(`bench: ${usage ? `${error.message}; see --help` : (error as Error).stack}\n`);
  process.exitCode = usage ? 2 : 1;
}
