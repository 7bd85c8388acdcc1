import type { ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { type Lab, ROOT, tail } from "./lab.ts";
import type { Namespace } from "./netns.ts";
import { poll } from "./poll.ts";
import { stopChild } from "./process.ts";

export interface ControlPlaneOptions {
  /** Arguments of node, from the repository's root. */
  argv?: readonly string[];
  env?: Record<string, string>;
  /** TCP port it listens on in its namespace. */
  port?: number;
  /** Path that answers 200 once it serves. */
  ready?: string;
  readyTimeoutMs?: number;
}

export interface ControlPlane {
  /** How hosts of the lab reach it. */
  url: string;
  /** How this process, a browser or a user on this machine reach it. */
  localUrl: string;
  pid(): number | undefined;
  start(): Promise<void>;
  /** SIGTERM, and waits for its end. */
  stop(): Promise<void>;
  /** SIGKILL: a crash. */
  kill9(): Promise<void>;
}

/**
 * Starts the control plane on the lab's `cp` host and opens it on a free loopback port of this machine. Its environment
 * is PATH, HOME (its own folder) and `env`, nothing of ours.
 */
export async function startControlPlane(lab: Lab, options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const { argv = ["control-plane/entry/node.ts"], port = 8787, ready = "/readyz" } = options;
  const host = lab.cp;
  let child: ChildProcess | undefined;
  const exposed = await expose(lab, host.ns, port);
  const logFile = lab.logFile("control-plane");

  const start = async () => {
    child = host.ns.spawn([process.execPath, ...argv], {
      bareEnv: { PATH: process.env.PATH ?? "", HOME: host.dir, ...options.env },
      logFile,
      cwd: ROOT,
    });
    const mine = child;
    await poll(
      async () => {
        if (mine.exitCode !== null) return "ended";
        return (await fetch(`${exposed.url}${ready}`, { signal: AbortSignal.timeout(2000) })).ok && "ready";
      },
      { what: `the control plane's ${ready}`, timeoutMs: options.readyTimeoutMs ?? 30_000, everyMs: 25 },
    ).catch((error: Error) => {
      throw new Error(`${error.message}\n${tail(logFile, 4000)}`);
    });
    if (mine.exitCode !== null) throw new Error(`the control plane ended (${mine.exitCode})\n${tail(logFile, 4000)}`);
  };
  const controlPlane: ControlPlane = {
    url: `http://${host.address}:${port}`,
    localUrl: exposed.url,
    pid: () => child?.pid,
    start,
    stop: async () => child && (await stopChild(child, "SIGTERM", 20_000)),
    kill9: async () => child && (await stopChild(child, "SIGKILL")),
  };
  lab.onClose(async () => {
    await controlPlane.stop();
    await exposed.close();
  });
  await start();
  return controlPlane;
}

/**
 * Opens a TCP port of a namespace on a free loopback port of this machine, by way of a unix socket: the network between
 * the two stays as separate as it was. Lasts as long as this namespace: open it again after a reboot of its host.
 */
export async function expose(
  lab: Lab,
  ns: Namespace,
  port: number,
): Promise<{ url: string; port: number; close(): Promise<void> }> {
  const path = join(ns.dir, `port-${port}.sock`);
  const socat = ns.spawn(["socat", `UNIX-LISTEN:${path},fork,unlink-early`, `TCP:127.0.0.1:${port}`], {
    logFile: lab.logFile(`socat-${ns.name}-${port}`),
  });
  await poll(() => existsSync(path), { what: `socat to listen for port ${port}` });
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const inner = connect({ path, allowHalfOpen: true });
    for (const [from, to] of [
      [socket, inner],
      [inner, socket],
    ] as const) {
      sockets.add(from);
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => {
        sockets.delete(from);
        to.end();
      });
    }
  });
  await listen(server);
  const { port: local } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${local}`,
    port: local,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      await stopChild(socat, "SIGKILL");
    },
  };
}

function listen(server: Server): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
}
