import { resolve } from "node:path";
import { newId } from "../../shared/ids.ts";
import { noBus } from "../adapters/bus/none.ts";
import { redisBus } from "../adapters/bus/redis.ts";
import { openHttpDatabase } from "../adapters/database/libsql-http.ts";
import type { Log } from "../ports/index.ts";
import type { EdgeEnvironment } from "./config.ts";
import { webClock, webRandom } from "./detached-ports.ts";
import { type Server, startServer } from "./server.ts";

/**
 * The scaled profile: one of any number of processes on one libSQL server. Hosts link to whichever they reach. Redis, when
 * there is one, carries wake-ups between the processes; without it they find each other's changes by sweeping, seconds later.
 * `npm run migrate` brings the database to this release before the first of them starts.
 */
export function startScaled(env: EdgeEnvironment & { REDIS_URL?: string | undefined }, log: Log): Promise<Server> {
  const db = openHttpDatabase(
    { url: env.DATABASE_URL, authToken: env.DATABASE_AUTH_TOKEN },
    { clock: webClock, random: webRandom, sleep: (ms) => new Promise((done) => setTimeout(done, ms)) },
  );
  const self = newId("lnk", webClock.now(), webRandom.bytes(10));
  return startServer(env, log, {
    db,
    bus: env.REDIS_URL === undefined ? noBus() : redisBus(env.REDIS_URL, self, log),
    clock: webClock,
    random: webRandom,
    signingKey: env.SIGNING_KEY,
    dataDir: resolve(env.DATA_DIR),
    // A database that does not answer is said now, not at the first request.
    prepare: (ports) => ports.db.ping(),
  });
}
