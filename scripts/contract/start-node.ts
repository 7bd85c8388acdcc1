import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { TestProject } from "vitest/node";
import { poll } from "../lab/poll.ts";
import { printedAdmin } from "./one-time-password.ts";

const ENTRY = resolve(import.meta.dirname, "../../control-plane/entry/node.ts");

/** Starts the embedded control plane as `npm start` does, on a free port and an empty folder. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "trunkline-contract-"));
  const child = spawn(process.execPath, [ENTRY], {
    env: { PATH: process.env.PATH, DATA_DIR: folder, PORT: "0" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk) => {
      // Enough for the start; the log of every request is not.
      if (said.length < 20_000) said += chunk;
    });
  const exited = once(child, "exit");
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
    await exited;
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const url = await Promise.race([
      exited.then(() => Promise.reject(new Error(`the control plane did not start:\n${said}`))),
      poll(() => said.match(/"event":"listening","url":"([^"]+)"/)?.[1], { what: "the control plane to listen" }),
    ]);
    project.provide("url", url);
    project.provide("admin", printedAdmin(said));
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}
