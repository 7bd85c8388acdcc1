import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import type { TestProject } from "vitest/node";
import { startSqld } from "../sqld.ts";
import { printedAdmin } from "./one-time-password.ts";
import { checkWorkerd } from "./workerd.ts";

const MIGRATE = resolve(import.meta.dirname, "../migrate.ts");

/** Starts a libSQL server, and brings it to the last migration and to its administrator by the command people use. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await checkWorkerd();
  const sqld = await startSqld();
  try {
    const args = [MIGRATE, "--url", sqld.url, "--bootstrap"];
    const { stdout } = await promisify(execFile)(process.execPath, args, { env: { PATH: process.env.PATH } });
    project.provide("databaseUrl", sqld.url);
    project.provide("admin", printedAdmin(stdout));
  } catch (error) {
    await sqld.stop();
    throw error;
  }
  return sqld.stop;
}
