import { parseArgs } from "node:util";
import { jsonLog } from "../adapters/log/json.ts";
import type { Log } from "../ports/index.ts";
import { readEdgeEnvironment, readEnvironment } from "./config.ts";
import { startEmbedded } from "./embedded.ts";
import type { Server } from "./server.ts";

const HELP = `Usage: npm start [-- --help]

Runs the control plane: HTTP API, agents' links and jobs in one process. By default embedded, on a libSQL file; the first
start prints the administrator's one-time password. With DATABASE_URL scaled: one of any number of processes on a libSQL
server, which "npm run migrate" has brought to this release.

Configuration is read from the environment (defaults in brackets):
  HOST [127.0.0.1], PORT [8787]   where to listen
  DATA_DIR [./data]               database, signing key, captures
  DATABASE_URL, DATABASE_AUTH_TOKEN   libSQL server (scaled); SIGNING_KEY is then needed, the same for all processes
  REDIS_URL                       wake-ups between scaled processes
  RELEASES_DIR [dist/agent]       agents to hand out (npm run build:agent)
  PUBLIC_URL                      base URL that customers and hosts use
  SIGNING_KEY                     Ed25519 seed, 32 bytes in base 64; made in DATA_DIR when absent
  ALLOWED_ORIGINS, TRUSTED_PROXIES, CLIENT_DNS [1.1.1.1]
  ORDER_PAY_TIMEOUT_S [900], QUOTE_LIFETIME_S [900], SESSION_LIFETIME_S [2592000]
  PORT_QUARANTINE_S [60], CAPTURE_KEEP_S [604800], SIGN_IN_LIMIT [10]
`;

/** A drain that takes longer than this is cut off. */
const EXIT_AFTER_MS = 15_000;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { help: { type: "boolean", short: "h" } } });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const log = jsonLog((line) => process.stdout.write(`${line}\n`), Date.now);
  const server = await start(log);
  let stopping = false;
  const stop = (signal: string) => {
    if (stopping) return;
    stopping = true;
    log.info("draining", { signal });
    setTimeout(() => process.exit(1), EXIT_AFTER_MS).unref();
    server.stop().then(
      () => process.exit(0),
      (error) => {
        log.error("drain failed", { error });
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  // Said last: whoever waits for it may stop the process at once.
  log.info("listening", { url: server.url, pid: process.pid });
}

/** The profile that the environment asks for. */
async function start(log: Log): Promise<Server> {
  if (process.env.DATABASE_URL) {
    // What only this profile needs is not loaded for the other.
    const { startScaled } = await import("./scaled.ts");
    return startScaled(readEdgeEnvironment(process.env), log);
  }
  const embedded = await startEmbedded(readEnvironment(process.env), log);
  if (embedded.admin !== undefined)
    process.stdout.write(
      `\nThe administrator was made. This is shown once; change the password after signing in.\n  name: ${embedded.admin.name}\n  password: ${embedded.admin.password}\n\n`,
    );
  return embedded;
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});
