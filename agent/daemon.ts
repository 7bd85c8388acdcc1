import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { systemClock } from "./clock.ts";
import type { AgentConfig } from "./config.ts";
import { UsageError } from "./config.ts";
import { LimitsDriver } from "./drivers/limits.ts";
import { LinkProxyDriver } from "./drivers/link-proxy.ts";
import { defaultGateway, defaultInterface } from "./drivers/links.ts";
import { RelayNftDriver } from "./drivers/relay-nft.ts";
import { RelaySocatDriver } from "./drivers/relay-socat.ts";
import { ResolverDriver } from "./drivers/resolver.ts";
import { DetachedServices } from "./drivers/services-detached.ts";
import { SystemdServices } from "./drivers/services-systemd.ts";
import { type Uplink, UplinkDriver } from "./drivers/uplink.ts";
import { WhitelistDriver } from "./drivers/whitelist.ts";
import { WireguardDriver } from "./drivers/wireguard.ts";
import { createExec } from "./exec.ts";
import { bootId, findCapabilities, VERSION } from "./facts.ts";
import { openSealed, sha256OfCanonical, signer, verifier } from "./keys.ts";
import type { LinkProxy } from "./link/proxy.ts";
import { LinkSession, waysOf } from "./link/session.ts";
import type { SessionAction } from "./link/session-types.ts";
import { LinkShell } from "./link/shell.ts";
import type { Log } from "./log.ts";
import { observeHost } from "./observe.ts";
import { Prober } from "./paths.ts";
import { pingMany } from "./ping-many.ts";
import { Reconciler, targetOf } from "./reconcile.ts";
import { RelayTraffic } from "./relay-traffic.ts";
import { SpareMemory } from "./spare-memory.ts";
import { StateKeeper } from "./state-keeper.ts";
import type { StateStore } from "./state-store.ts";
import { StatusFile } from "./status-file.ts";
import { createSystemd, loopsAlive } from "./systemd.ts";
import { TaskDispatcher } from "./tasks/dispatch.ts";
import { TaskError, type TaskRunner } from "./tasks/types.ts";
import { TrafficBook } from "./traffic.ts";
import { TunnelCounts } from "./tunnel-counts.ts";
import { OPT, RELEASE_KEYS } from "./upgrade/files.ts";
import { Watch } from "./watch.ts";

export interface Daemon {
  /** Ends the link and the loops. What is in the kernel stays. */
  stop(): Promise<void>;
}

/** How often a disk that took no writes is tried again. */
const RETRY_DISK_MS = 5000;

/** The agent's composition root: everything is made and wired here, and nothing runs before. */
export async function startDaemon(config: AgentConfig, store: StateStore, log: Log): Promise<Daemon> {
  const enrolment = store.enrolment();
  const keys = store.keys();
  if (!enrolment || !keys)
    throw new UsageError(`This host is not enrolled (${store.dir}). Run: trunkline-agent enrol --url URL --role ROLE`);
  const exec = createExec();
  const clock = systemClock;
  const systemd = createSystemd(process.env, exec, log);
  const verify = verifier(enrolment.controlPlaneKey.publicKey);
  const kept = store.state();
  const lastGood = kept && targetOf(kept);

  let uplink: Promise<Uplink> | undefined;
  const getUplink = () => {
    uplink ??= import("./tasks/uplink.ts").then((m) => m.createUplink());
    return uplink;
  };
  let upgrader: Promise<TaskRunner<never>> | undefined;
  const getUpgrader = () => {
    upgrader ??= import("./upgrade/upgrade.ts").then((m) =>
      m.createUpgrader({
        stateDir: store.dir,
        opt: OPT,
        keysFile: RELEASE_KEYS,
        version: VERSION,
        bundle: process.argv[1] ?? "",
        log,
        // As a stop by systemd: the goodbye is said, and Restart=always starts what the gate puts in place.
        restart: () => process.kill(process.pid, "SIGTERM"),
      }),
    );
    return upgrader;
  };
  let proxy: Promise<LinkProxy> | undefined;
  const getProxy = () => {
    proxy ??= import("./link/proxy.ts").then((m) => m.createLinkProxy(config.endpoints[0] ?? ""));
    return proxy;
  };
  const servicesDir = store.path("services");
  const services = existsSync("/run/systemd/system")
    ? new SystemdServices(exec, servicesDir)
    : new DetachedServices(exec, servicesDir);
  const book = new TrafficBook(bootId(), store.traffic(), (kept) => store.saveTraffic(kept));
  const traffic = new RelayTraffic(exec, services, book);
  const counts = new TunnelCounts(
    store.tunnelCounts(),
    (lives) => store.saveTunnelCounts(lives),
    () => randomBytes(8).toString("hex"),
    clock.wall,
  );
  const resolver = new ResolverDriver(exec, services, store.path("resolver"));
  const drivers = [
    new LimitsDriver(exec, log),
    new WhitelistDriver(exec, store),
    new RelayNftDriver(exec, store, (flow) => traffic.flowEnded(flow)),
    new RelaySocatDriver(exec, services, traffic),
    new WireguardDriver({
      exec,
      store,
      keyFile: store.wireguardKeyFile,
      publicKey: keys.wireguard?.publicKey ?? null,
      counts,
    }),
    resolver,
    new UplinkDriver(getUplink),
    new LinkProxyDriver(getProxy),
  ];

  const session = new LinkSession({
    hostId: enrolment.hostId,
    version: VERSION,
    bootId: bootId(),
    capabilities: findCapabilities(),
    endpoints: config.endpoints,
    ways: waysOf(lastGood?.items ?? []),
    busy: () => dispatcher.running > 0,
    controlPlaneKeyId: enrolment.controlPlaneKey.keyId,
    epoch: store.epoch(),
    accepted: kept && { rev: kept.rev, sha256: kept.sha256 },
    // Without the state itself, to say it is applied would get "unchanged" for an answer and never the state.
    applied: kept && store.applied(),
    sign: signer(keys.identity),
    verify,
    sha256: sha256OfCanonical,
    random: Math.random,
  });
  const tunnel = () => reconciler.target?.items.find((item) => item.type === "wireguard")?.interface;
  const status = new StatusFile(store, { hostId: enrolment.hostId, role: enrolment.role, version: VERSION }, log);
  const told = () => {
    status.update({ session, report: reconciler.lastReport });
    const applied = reconciler.lastReport;
    systemd.status(`link ${session.phase}, revision ${applied ? applied.rev : "none"}`);
  };
  let ready = false;
  const becomeReady = () => {
    if (!ready) systemd.ready();
    ready = true;
  };

  const memory = new SpareMemory();
  const reconciler = new Reconciler({
    drivers,
    clock,
    log,
    onReport(report) {
      keeper.flush();
      log.info("state applied", { rev: report.rev, allOk: report.allOk, items: report.results.length });
      shell.input({ type: "report", ...report });
      // After the acknowledgement: the last counts of what this state removed are nowhere else.
      counts.save();
      becomeReady();
      told();
      memory.changed();
    },
    onEvents: (events) => watch.events(events),
  });
  const keeper = new StateKeeper((state) => store.saveState(state));
  const dispatcher = new TaskDispatcher({
    log,
    loaders: {
      ping: async () => (await import("./tasks/ping.ts")).runPing,
      capture: async () => (await import("./tasks/capture.ts")).runCapture,
      uplink: async () => (await getUplink()).run,
      upgrade: getUpgrader,
    },
    send(frame) {
      if (session.phase !== "linked") return false;
      shell.input({ type: "send", frame });
      return true;
    },
    context: {
      hostInfo: {
        tunnelInterface: tunnel,
        async outsideInterface() {
          const name = await defaultInterface(exec);
          if (name === undefined) throw new TaskError("no_default_route", "This host has no default route.");
          return name;
        },
      },
      openSealed: (sealed) => openSealed(keys.box, sealed),
      way: () => session.way,
      now: clock.wall,
    },
  });
  const perform = (action: SessionAction) => {
    switch (action.type) {
      case "saveEpoch":
        return store.saveEpoch(action.epoch);
      case "saveApplied":
        return store.saveApplied(action.applied);
      case "accept": {
        const { rev, sha256 } = action.state;
        reconciler.want({ rev, sha256, ...action.read });
        return keeper.accept(action.state);
      }
      case "recheck":
        return reconciler.recheck();
      case "task":
        return dispatcher.start(action.task);
      case "cancelTask":
        return dispatcher.cancel(action.id);
      case "event":
        log.warn("refused", { detail: action.event.detail });
        return watch.events([action.event]);
      case "linked":
        log.info("linked", { endpoint: session.endpoint, via: session.via?.hostId });
        // After this turn: the session's own actions come first on the wire.
        setImmediate(() => {
          watch.linked();
          dispatcher.linked();
          becomeReady();
          told();
        });
        return;
      case "unlinked":
        return told();
    }
  };
  const shell: LinkShell = new LinkShell({
    session,
    log,
    now: () => ({ mono: clock.mono(), wall: clock.wall() }),
    perform,
  });
  const prober = new Prober({
    clock,
    log,
    everyMs: config.probeSeconds * 1000,
    items: () => reconciler.target?.items ?? [],
    tell: (paths) => watch.tell({ paths }),
    gateway: () => defaultGateway(exec),
    ping: (targets, how) => pingMany(exec, targets, how),
  });
  const watch = new Watch({
    clock,
    look: () => observeHost({ exec, log, traffic, counts, resolver }, reconciler.target?.items ?? []),
    send: (frame) => shell.input({ type: "send", frame }),
    linked: () => session.phase === "linked",
  });

  store.onTrouble = (why) => {
    const detail = why ?? "the state directory takes writes again; what was kept in memory is on disk";
    watch.events([
      { at: clock.wall(), kind: why === null ? "disk_recovered" : "disk_failed", detail: detail.slice(0, 500) },
    ]);
  };
  const retrying = setInterval(() => store.retryUnsaved(), RETRY_DISK_MS);
  // The data path first: it needs no control plane.
  if (lastGood) reconciler.want(lastGood);
  const loops = [reconciler.run(), watch.run(), prober.run()];
  shell.start();
  const feeding =
    systemd.watchdogMs === undefined
      ? undefined
      : setInterval(() => {
          const at = { reconcile: reconciler.aliveAt, link: shell.aliveAt };
          if (loopsAlive(clock.mono(), at)) systemd.watchdog();
          else log.error("a loop stands still; the watchdog is not fed", at);
        }, systemd.watchdogMs);

  return {
    async stop() {
      const said = systemd.stopping();
      clearInterval(feeding);
      clearInterval(retrying);
      dispatcher.stop();
      reconciler.stop();
      keeper.flush();
      watch.stop();
      prober.stop();
      shell.stop();
      await Promise.all([said, ...loops, uplink?.then((u) => u.close()), proxy?.then((p) => p.close())]);
      status.close();
    },
  };
}
