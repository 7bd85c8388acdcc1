import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { createClient } from "@libsql/client/web";
import { applyMigrations } from "../control-plane/adapters/database/migrate.ts";
import { jsonLog } from "../control-plane/adapters/log/json.ts";
import { freshSigningSeed, webcryptoSigner } from "../control-plane/adapters/signer/webcrypto.ts";
import { readEnvironment, settingsOf } from "../control-plane/entry/config.ts";
import { detachedPorts, webClock, webRandom } from "../control-plane/entry/detached-ports.ts";
import { bootstrap } from "../control-plane/services/accounts/bootstrap.ts";

const HELP = `Usage: npm run migrate -- --url URL [--auth-token-env NAME] [--bootstrap]

Brings the database of a libSQL server to this release (scaled and edge profiles). Migrations run in order, forward only;
on a database that has them all it does nothing. The embedded profile migrates its file by itself when it starts.

  --url URL               the server: http://, https:// or libsql://
  --auth-token-env NAME   the environment variable that holds the server's token [DATABASE_AUTH_TOKEN]
  --bootstrap             on a database without accounts, make the administrator and print its one-time password
  --help
`;

const MIGRATIONS = resolve(import.meta.dirname, "../migrations");

type Target = { url: string; authToken: string | undefined };
const say = (text: string) => process.stdout.write(`${text}\n`);

/** What the person who typed the command has to put right. */
class UsageError extends Error {}

function readArguments(argv: string[], env: NodeJS.ProcessEnv): (Target & { bootstrap: boolean }) | "help" {
  const { values } = parseArgs({
    args: argv,
    options: {
      url: { type: "string" },
      "auth-token-env": { type: "string" },
      bootstrap: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  if (values.url === undefined) throw new UsageError("--url is needed; see --help");
  if (!/^(https?|libsql):\/\/[^/]/.test(values.url) || !URL.canParse(values.url))
    throw new UsageError(`--url ${values.url}: must start with http://, https:// or libsql://`);
  if (new URL(values.url).username !== "" || new URL(values.url).searchParams.has("authToken"))
    throw new UsageError("--url may not hold a token: others see it there; use --auth-token-env");
  const named = values["auth-token-env"];
  const authToken = env[named ?? "DATABASE_AUTH_TOKEN"] || undefined;
  if (named !== undefined && authToken === undefined) throw new UsageError(`--auth-token-env ${named}: is not set`);
  return { url: values.url, authToken, bootstrap: values.bootstrap };
}

async function migrate({ url, authToken }: Target): Promise<void> {
  const client = createClient({ url, ...(authToken === undefined ? {} : { authToken }) });
  try {
    const startedAt = performance.now();
    const { applied, total } = await applyMigrations(client, MIGRATIONS, (tag) => say(`applying ${tag}`));
    const ms = Math.round(performance.now() - startedAt);
    say(applied.length === 0 ? `nothing to do: all ${total} are applied` : `${applied.length} of ${total} in ${ms} ms`);
  } finally {
    client.close();
  }
}

async function makeAdministrator(database: Target): Promise<void> {
  const ports = detachedPorts({
    database,
    // Nothing is signed here.
    signer: await webcryptoSigner(freshSigningSeed(webRandom)),
    settings: settingsOf(readEnvironment({}), "http://localhost"),
    log: jsonLog((line) => process.stderr.write(`${line}\n`), webClock.now),
    background: () => {},
  });
  try {
    const admin = await bootstrap(ports);
    if (admin === undefined) {
      say("there are accounts already: no administrator was made");
      return;
    }
    say("\nThe administrator was made. This is shown once; change the password after signing in.");
    say(`  name: ${admin.name}\n  password: ${admin.password}\n`);
  } finally {
    await ports.db.close();
  }
}

/** An error with what caused it, in a line: "fetch failed" alone helps nobody. */
function explain(error: unknown): string {
  const messages: string[] = [];
  for (let e = error; e instanceof Error; e = e.cause) if (!messages.includes(e.message)) messages.push(e.message);
  return messages.join(": ") || String(error);
}

/** Runs the command line. Hands back the exit status. */
export async function main(argv: string[], env: NodeJS.ProcessEnv): Promise<number> {
  try {
    const given = readArguments(argv, env);
    if (given === "help") {
      say(HELP);
      return 0;
    }
    await migrate(given);
    if (given.bootstrap) await makeAdministrator(given);
    return 0;
  } catch (error) {
    process.stderr.write(`migrate: ${explain(error)}\n`);
    const wrongUse = error instanceof UsageError || (error as { code?: string }).code?.startsWith("ERR_PARSE_ARGS");
    return wrongUse ? 2 : 1;
  }
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2), process.env);
