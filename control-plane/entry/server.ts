import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { join, resolve } from "node:path";
import { type ServerType, serve } from "@hono/node-server";
import { directoryCaptures } from "../adapters/captures/directory.ts";
import { staticCloud } from "../adapters/cloud/static.ts";
import { InProcessRunner } from "../adapters/job-runner/in-process.ts";
import { prometheusMetrics } from "../adapters/metrics/prometheus.ts";
import { scryptPasswords } from "../adapters/passwords/scrypt.ts";
import { directoryReleases } from "../adapters/releases/directory.ts";
import { nodeSigner } from "../adapters/signer/node.ts";
import { createApp } from "../app.ts";
import { AppliedWaiters, type Delay } from "../link/applied-waiters.ts";
import { LinkHub } from "../link/hub.ts";
import { linkServer, mountLink } from "../link/node.ts";
import type { Bus, Clock, Database, Log, Ports, Random } from "../ports/index.ts";
import { armSweep } from "../services/retention/sweep.ts";
import { rolloutDriver } from "../services/rollouts/drive.ts";
import { clientAddress } from "./client-address.ts";
import { type Environment, settingsOf } from "./config.ts";

const RELEASES = resolve(import.meta.dirname, "../../dist/agent");

/** How long requests under way may take when the process drains. */
const DRAIN_MS = 10_000;

/** A control plane process that serves. */
export type Server = {
  /** Where it listens. */
  url: string;
  ports: Ports;
  /** Stops taking requests, says goodbye to hosts, finishes what runs. */
  stop(): Promise<void>;
};

/** What a profile on Node brings: everything else is the same in all of them. */
export type Parts = {
  db: Database;
  bus: Bus;
  clock: Clock;
  random: Random;
  signingKey: string;
  /** Where captures go. */
  dataDir: string;
  /** Runs when the ports are whole and nothing is served yet. */
  prepare?(ports: Ports): Promise<void>;
};

/** Serves HTTP and agents' links, and runs jobs, in this process. */
export async function startServer(env: Environment, log: Log, parts: Parts): Promise<Server> {
  const { db, bus, clock, random } = parts;
  const delay: Delay = (ms, fn) => {
    if (ms === 0) {
      const turn = setImmediate(fn);
      return () => clearImmediate(turn);
    }
    const timer = setTimeout(fn, ms);
    return () => clearTimeout(timer);
  };
  const linkClock = { monotonic: () => performance.now(), wall: clock.now };
  const hub = new LinkHub(linkClock, new AppliedWaiters(db, delay), bus, delay);
  const runner = new InProcessRunner();
  const work = new Set<Promise<void>>();
  const ports: Ports = {
    db,
    clock,
    delay,
    random,
    log,
    metrics: prometheusMetrics(),
    passwords: scryptPasswords(random),
    signer: await nodeSigner(parts.signingKey),
    fleet: hub,
    jobBell: runner.bell,
    cloud: staticCloud({ db, clock, random }),
    captures: await directoryCaptures(join(parts.dataDir, "captures")),
    releases: directoryReleases(env.RELEASES_DIR ?? RELEASES),
    background(promise) {
      work.add(promise);
      promise.finally(() => work.delete(promise));
    },
    settings: settingsOf(env, env.PUBLIC_URL ?? `http://${env.HOST}:${env.PORT}`),
  };
  hub.start(ports);
  await parts.prepare?.(ports);
  await armSweep(ports);
  const app = createApp(ports, { addressOf: clientAddress(env.TRUSTED_PROXIES) });
  mountLink(app, hub);

  const server = serve({ fetch: app.fetch, hostname: env.HOST, port: env.PORT, websocket: { server: linkServer() } });
  await Promise.race([once(server, "listening"), once(server, "error").then(([error]) => Promise.reject(error))]);
  const url = `http://${env.HOST}:${(server.address() as AddressInfo).port}`;
  // With port 0 the address is known only now.
  if (env.PUBLIC_URL === undefined) ports.settings.publicUrl = url;
  const stopTimers = keepTime(hub, rolloutDriver(ports), log);
  runner.start(ports);

  return {
    url,
    ports,
    async stop() {
      stopTimers();
      const closed = closeServer(server);
      await hub.drain();
      await Promise.allSettled([closed, runner.stop(), ...work]);
      await bus.close();
      await db.close();
    },
  };
}

/** What the hub and rollouts need done again and again. */
function keepTime(hub: LinkHub, rollouts: ReturnType<typeof rolloutDriver>, log: Log): () => void {
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
    setInterval(
      guarded("rollouts", () => rollouts.turn()),
      1_000,
    ),
    setInterval(
      guarded("line usage", () => hub.flushUsage()),
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
