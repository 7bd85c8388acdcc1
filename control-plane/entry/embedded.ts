import { chmod, mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { noBus } from "../adapters/bus/none.ts";
import { openFileDatabase } from "../adapters/database/libsql-file.ts";
import type { Log } from "../ports/index.ts";
import { bootstrap } from "../services/accounts/bootstrap.ts";
import type { Environment } from "./config.ts";
import { webClock, webRandom } from "./detached-ports.ts";
import { type Server, startServer } from "./server.ts";
import { keptSigningKey } from "./signing-key.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../migrations");

export type Embedded = Server & {
  /** The administrator made on the first start, with its one-time password. */
  admin: { name: string; password: string } | undefined;
};

/** The embedded profile: one process on a libSQL file, which it migrates when it starts. */
export async function startEmbedded(env: Environment, log: Log): Promise<Embedded> {
  const dataDir = resolve(env.DATA_DIR);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, "trunkline.db");
  const db = await openFileDatabase(path, { migrations: MIGRATIONS });
  await chmod(path, 0o600);
  let admin: Embedded["admin"];
  const server = await startServer(env, log, {
    db,
    bus: noBus(),
    clock: webClock,
    random: webRandom,
    signingKey: env.SIGNING_KEY ?? (await keptSigningKey(dataDir, webRandom)),
    dataDir,
    async prepare(ports) {
      admin = await bootstrap(ports);
    },
  });
  return { ...server, admin };
}
