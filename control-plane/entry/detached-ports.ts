import { noCaptures } from "../adapters/captures/none.ts";
import { staticCloud } from "../adapters/cloud/static.ts";
import { openHttpDatabase } from "../adapters/database/libsql-http.ts";
import { detachedFleet } from "../adapters/fleet/detached.ts";
import { noMetrics } from "../adapters/metrics/none.ts";
import { scryptPasswords } from "../adapters/passwords/scrypt.ts";
import { noReleases } from "../adapters/releases/none.ts";
import type { Clock, Delay, Log, Ports, Random, Settings, Signer } from "../ports/index.ts";

/** Clock and randomness by web standards, which Node and Workers both have. */
export const webClock: Clock = { now: () => Date.now() };
const webDelay: Delay = (ms, fn) => {
  const timer = setTimeout(fn, ms);
  return () => clearTimeout(timer);
};
export const webRandom: Random = { bytes: (n) => crypto.getRandomValues(new Uint8Array(n)) };

/**
 * The ports of a process on a libSQL server that holds no links, runs no jobs and stores no captures: a request at the edge,
 * or a command. The jobs it inserts stay in the outbox for whoever runs them.
 */
export function detachedPorts(given: {
  database: { url: string; authToken?: string | undefined };
  signer: Signer;
  settings: Settings;
  log: Log;
  background(work: Promise<void>): void;
}): Ports {
  const { database, signer, settings, log, background } = given;
  const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
  const db = openHttpDatabase(database, { clock: webClock, random: webRandom, sleep });
  return {
    db,
    clock: webClock,
    delay: webDelay,
    random: webRandom,
    log,
    metrics: noMetrics(),
    passwords: scryptPasswords(webRandom),
    signer,
    fleet: detachedFleet(),
    jobBell: { ring: () => {} },
    cloud: staticCloud({ db, clock: webClock, random: webRandom }),
    captures: noCaptures(),
    releases: noReleases(),
    background,
    settings,
  };
}
