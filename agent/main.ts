import { parseArgs } from "node:util";
import { hostRoleSchema } from "../shared/protocol/enrolment.ts";
import { DEFAULT_CONFIG, DEFAULT_STATE_DIR, readConfig, UsageError } from "./config.ts";
import { createLog, sentence } from "./log.ts";

const HELP = `Trunkline's agent: keeps this host as the control plane says.

  enrol --url URL --role ROLE   make this host known to a control plane
  run                           the daemon
  status [--json]               link, revision and problems of the daemon

Options of all: --config FILE (${DEFAULT_CONFIG}), --state-dir DIR (${DEFAULT_STATE_DIR}), --help
`;
const HELP_OF: Record<string, string> = {
  enrol: `enrol --url URL --role boarding|forward|exit [--token-file FILE] [--force]

Reads the enrolment token from --token-file, from TRUNKLINE_TOKEN, or from stdin: never from the command line, which
every user of the host can read. Makes the host's keys; their private halves stay in the state directory.
--force makes an enrolled host a new one, with new keys.

Options: --config FILE (${DEFAULT_CONFIG}), --state-dir DIR (${DEFAULT_STATE_DIR})
`,
  run: `run [--config FILE] [--state-dir DIR]

Links to the control plane and keeps the kernel as it says. Starts from the last good state when there is no link.
Ends on SIGTERM and SIGINT; relays, tunnels and whitelists stay as they are.
`,
  status: `status [--json] [--config FILE] [--state-dir DIR]

Prints what the running daemon last said of its link, its revision and its problems.
`,
};

async function main(argv: string[]): Promise<void> {
  const { values, positionals } = parse(argv);
  const [command = "", extra] = positionals;
  if (values.help || command === "" || command === "help") return void process.stdout.write(HELP_OF[command] ?? HELP);
  if (extra !== undefined) throw new UsageError(`"${extra}" is one word too many. See --help.`);
  const log = createLog();
  const configFile = values.config ?? process.env.TRUNKLINE_CONFIG ?? DEFAULT_CONFIG;
  switch (command) {
    case "enrol": {
      const { enrol, readToken } = await import("./cli/enrol.ts");
      const role = hostRoleSchema.safeParse(values.role);
      if (!role.success) throw new UsageError("--role must be boarding, forward or exit.");
      const url = values.url ?? "";
      if (!/^https?:\/\/[^\s/]+/.test(url)) throw new UsageError("--url must be the control plane's http(s) address.");
      const token = await readToken(values["token-file"]);
      delete process.env.TRUNKLINE_TOKEN;
      const stateDir = values["state-dir"] ?? DEFAULT_STATE_DIR;
      const { force } = values;
      const { hostId } = await enrol({ url, role: role.data, configFile, stateDir, force, token, log });
      process.stdout.write(`Enrolled as ${hostId}. Start the agent: systemctl start trunkline-agent\n`);
      return;
    }
    case "run": {
      const { startDaemon } = await import("./daemon.ts");
      const { StateStore } = await import("./state-store.ts");
      const { claimStateDir } = await import("./state-schema.ts");
      // The daemon has no use for a token, and neither have the programs it starts.
      delete process.env.TRUNKLINE_TOKEN;
      const config = readConfig(configFile);
      const store = new StateStore(values["state-dir"] ?? config.stateDir, log);
      claimStateDir(store.dir);
      const daemon = await startDaemon(config, store, log);
      const stop = (signal: string) => {
        log.info("stopping", { signal });
        // Something that hangs must not hold up a shutdown; the kernel's part needs no good-bye.
        setTimeout(() => process.exit(0), 8000).unref();
        void daemon.stop().then(() => process.exit(0));
      };
      process.once("SIGTERM", () => stop("SIGTERM"));
      process.once("SIGINT", () => stop("SIGINT"));
      return;
    }
    case "status": {
      const { showStatus } = await import("./cli/status.ts");
      const stateDir = values["state-dir"] ?? readConfig(configFile).stateDir;
      process.stdout.write(`${showStatus(stateDir, values.json)}\n`);
      return;
    }
    default:
      throw new UsageError(`"${command}" is no command. See --help.`);
  }
}

function parse(argv: string[]) {
  try {
    return parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        help: { type: "boolean", short: "h", default: false },
        url: { type: "string" },
        role: { type: "string" },
        config: { type: "string" },
        "state-dir": { type: "string" },
        "token-file": { type: "string" },
        force: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    throw new UsageError(`${sentence(error)} See --help.`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError) process.stderr.write(`${error.message}\n`);
  else
    createLog().error("the agent failed", {
      why: error instanceof Error ? (error.stack ?? error.message) : sentence(error),
    });
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
