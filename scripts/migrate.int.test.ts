import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { printedAdmin } from "./contract/one-time-password.ts";
import { freePort, type Sqld, startSqld } from "./sqld.ts";

let sqld: Sqld;
beforeAll(async () => {
  sqld = await startSqld();
});
afterAll(() => sqld.stop());

/** Runs the command as a person would. */
async function migrate(...args: string[]): Promise<{ status: number; out: string; err: string }> {
  const command = [resolve(import.meta.dirname, "migrate.ts"), ...args];
  const child = spawn(process.execPath, command, { env: { PATH: process.env.PATH, EMPTY: "" } });
  let [out, err] = ["", ""];
  child.stdout.on("data", (chunk) => {
    out += chunk;
  });
  child.stderr.on("data", (chunk) => {
    err += chunk;
  });
  const [status] = await once(child, "close");
  return { status, out, err };
}

test("three at once on an empty server: each ends well, and each migration is there once", async () => {
  const runs = await Promise.all([1, 2, 3].map(() => migrate("--url", sqld.url)));
  expect(runs.map(({ status, err }) => ({ status, err }))).toEqual(Array(3).fill({ status: 0, err: "" }));
  const again = await migrate("--url", sqld.url);
  expect(again).toMatchObject({ status: 0, out: expect.stringContaining("nothing to do") });
});

test("--bootstrap makes the administrator once", async () => {
  const first = await migrate("--url", sqld.url, "--bootstrap");
  expect(printedAdmin(first.out)).toEqual({ name: "admin", password: expect.stringMatching(/^\S{24}$/) });
  const second = await migrate("--url", sqld.url, "--bootstrap");
  expect(second).toMatchObject({ status: 0, out: expect.stringContaining("no administrator was made") });
});

test("a server that is not there is named, with what went wrong", async () => {
  const run = await migrate("--url", `http://127.0.0.1:${await freePort()}`);
  expect(run).toMatchObject({ status: 1, err: expect.stringContaining("ECONNREFUSED") });
});

test("wrong use is refused with a reason, which shows no secret", async () => {
  const wrong: [args: string[], reason: string][] = [
    [[], "--url is needed"],
    [["--url", "file:x.db"], "must start with"],
    [["--url", "https://user:secret@db.example"], "--url may not hold a token"],
    [["--url", "https://db.example?authToken=secret"], "--url may not hold a token"],
    [["--url", "https://db.example", "--auth-token-env", "EMPTY"], "--auth-token-env EMPTY: is not set"],
    [["--nonsense"], "--nonsense"],
  ];
  const runs = await Promise.all(wrong.map(([args]) => migrate(...args)));
  for (const [i, run] of runs.entries()) {
    expect(run).toMatchObject({ status: 2, err: expect.stringContaining(wrong[i]?.[1] ?? "") });
    expect(run.err).not.toContain("secret");
  }
});
