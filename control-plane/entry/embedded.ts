import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join, resolve } from "node:path";
import { type ServerType, serve } from "@hono/node-server";
import { directoryCaptures } from "../adapters/captures/directory.ts";
import { staticCloud } from "../adapters/cloud/static.ts";
import { openFileDatabase } from "../adapters/database/libsql-file.ts";
import { InProcessRunner } from "../adapters/job-runner/in-process.ts";
import { prometheusMetrics } from "../adapters/metrics/prometheus.ts";
import { scryptPasswords } from "../adapters/passwords/scrypt.ts";
import { inProcessRunning } from "../adapters/running/in-process.ts";
import { webcryptoSigner } from "../adapters/signer/webcrypto.ts";
import { createApp } from "../app.ts";
import { AppliedWaiters } from "../link/applied-waiters.ts";
import { LinkHub } from "../link/hub.ts";
import { linkServer, mountLink } from "../link/node.ts";
import type { Log, Ports, Random } from "../ports/index.ts";
import { bootstrap } from "../services/accounts/bootstrap.ts";
import { clientAddress } from "./client-address.ts";
import { type Environment, settingsOf } from "./config.ts";
import { keptSigningKey } from "./signing-key.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../migrations");
/** How long requests under way may take when the process drains. */
const DRAIN_MS = 10_000;

export type Embedded = {
  /** Where it listens. */
  url: string;
  /** The administrator made on the first start, with its one-time password. */
  admin: { name: string; password: string } | undefined;
  ports: Ports;
  /** Stops taking requests, says goodbye to hosts, finishes what runs. */
  stop(): Promise<void>;
};

/** The embedded profile: HTTP, links and jobs in this process, on a libSQL file. */
export async function startEmbedded(env: Environment, log: Log): Promise<Embedded> {
  const clock = { now: () => Date.now() };
  const random: Random = { bytes: (n) => Uint8Array.from(randomBytes(n)) };
  const dataDir = resolve(env.DATA_DIR);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, "trunkline.db");
  const db = await openFileDatabase(path, { migrations: MIGRATIONS });
  await chmod(path, 0o600);

  const waiters = new AppliedWaiters(db, (ms, fn) => {
    const timer = setTimeout(fn, ms);
    return () => clearTimeout(timer);
  });
  const hub = new LinkHub({ monotonic: () => performance.now(), wall: clock.now }, waiters);
  const runner = new InProcessRunner();
  const running = inProcessRunning();
  const work = new Set<Promise<void>>();
  const ports: Ports = {
    db,
    clock,
    random,
    log,
    metrics: prometheusMetrics(),
    passwords: scryptPasswords(random),
    signer: await webcryptoSigner(env.SIGNING_KEY ?? (await keptSigningKey(dataDir, random))),
    fleet: hub,
    jobBell: runner.bell,
    cloud: staticCloud(db),
    captures: await directoryCaptures(join(dataDir, "captures")),
    running,
    background(promise) {
      work.add(promise);
      promise.finally(() => work.delete(promise));
    },
    settings: settingsOf(env, env.PUBLIC_URL ?? `http://${env.HOST}:${env.PORT}`),
  };
  hub.start(ports);
  const admin = await bootstrap(ports);
  const app = createApp(ports, { addressOf: clientAddress(env.TRUSTED_PROXIES) });
  mountLink(app, hub);

  const server = serve({ fetch: app.fetch, hostname: env.HOST, port: env.PORT, websocket: { server: linkServer() } });
  await Promise.race([once(server, "listening"), once(server, "error").then(([error]) => Promise.reject(error))]);
  const stopTimers = keepTime(hub, log);
  runner.start(ports);

  return {
    url: `http://${env.HOST}:${(server.address() as AddressInfo).port}`,
    admin,
    ports,
    async stop() {
      stopTimers();
      running.stopAll();
      const closed = closeServer(server);
      await hub.drain();
      await Promise.allSettled([closed, runner.stop(), ...work]);
      await db.close();
    },
  };
}

/** What the hub needs done again and again. */
function keepTime(hub: LinkHub, log: Log): () => void {
  const guarded = (what: string, fn: () => Promise<void>) => () => {
    fn().catch((error) => log.error(what, { error }));
  };
  const timers = [
    setInterval(() => hub.tick(), 1_000),
    setInterval(
      guarded("link sweep", () => hub.sweep()),
      5_000,
    ),
    setInterval(
      guarded("link heartbeats", () => hub.flushSeen()),
      10_000,
    ),
  ];
  return () => {
    for (const timer of timers) clearInterval(timer);
  };
}

async function closeServer(server: ServerType): Promise<void> {
  const closed = once(server, "close");
  server.close();
  if ("closeIdleConnections" in server) server.closeIdleConnections();
  const cut = setTimeout(() => "closeAllConnections" in server && server.closeAllConnections(), DRAIN_MS);
  await closed;
  clearTimeout(cut);
}
