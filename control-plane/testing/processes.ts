import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { promisify } from "node:util";
import { printedAdmin } from "../../scripts/contract/one-time-password.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { freePort, type Sqld, startSqld } from "../../scripts/sqld.ts";

const ROOT = join(import.meta.dirname, "../..");
const ENTRY = join(ROOT, "control-plane/entry/node.ts");

/** A control plane as a process of its own, as people run it. */
export type Process = { url: string; kill9(): Promise<void>; stop(): Promise<void>; output(): string };

/** Starts one on a free port and waits until it is ready. */
export async function startProcess(env: Record<string, string>): Promise<Process> {
  const port = await freePort();
  const child = spawn(process.execPath, [ENTRY], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: process.env.PATH, PORT: `${port}`, ...env },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk) => {
      output = `${output}${chunk}`.slice(-20_000);
    });
  const url = `http://127.0.0.1:${port}`;
  await poll(
    async () => {
      if (child.exitCode !== null) return "ended";
      return (await fetch(`${url}/readyz`)).ok && "ready";
    },
    { what: `${url}/readyz`, timeoutMs: 30_000, everyMs: 25 },
  );
  if (child.exitCode !== null) throw new Error(`the control plane ended: ${output}`);
  return { url, kill9: () => end(child, "SIGKILL"), stop: () => end(child, "SIGTERM"), output: () => output };
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill(signal);
  await exited;
}

/** A libSQL server with all migrations and an administrator, made by the command people use. */
export async function startMigrated(): Promise<{ sqld: Sqld; admin: { name: string; password: string } }> {
  const sqld = await startSqld();
  const argv = [join(ROOT, "scripts/migrate.ts"), "--url", sqld.url, "--bootstrap"];
  const { stdout } = await promisify(execFile)(process.execPath, argv, { env: { PATH: process.env.PATH } });
  return { sqld, admin: printedAdmin(stdout) };
}
