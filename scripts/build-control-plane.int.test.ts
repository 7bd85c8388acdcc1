import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { buildControlPlane } from "./build-control-plane.ts";
import { stopChild } from "./lab/process.ts";
import { freePort } from "./sqld.ts";

const ROOT = resolve(import.meta.dirname, "..");
let dataDir: string;
let child: ChildProcess | undefined;

beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "trunkline-bundle-"));
  await buildControlPlane();
});
afterAll(async () => {
  if (child !== undefined) await stopChild(child);
  rmSync(dataDir, { recursive: true, force: true });
});

test("the bundle knows all the sources it was made of, and the lock file", () => {
  const inputs = JSON.parse(readFileSync(join(ROOT, "dist/control-plane/inputs.json"), "utf8"));
  for (const path of ["control-plane/entry/node.ts", "control-plane/app.ts", "shared/errors.ts", "package-lock.json"])
    expect(inputs[path]).toMatch(/^[0-9a-f]{64}$/);
  expect(Object.keys(inputs).filter((path) => path.includes("node_modules"))).toEqual([]);
});

test("the bundle runs where it lies: it migrates, makes an administrator, is ready and answers", async () => {
  const port = await freePort();
  const env = { PATH: process.env.PATH ?? "", PORT: `${port}`, DATA_DIR: dataDir };
  child = spawn(process.execPath, [join(ROOT, "dist/control-plane/server.mjs")], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout?.on("data", (chunk) => {
    output += chunk;
  });
  const get = (path: string) => fetch(`http://127.0.0.1:${port}${path}`);
  await vi.waitFor(async () => expect((await get("/readyz")).status).toBe(200), { timeout: 30_000, interval: 50 });
  const [, password = ""] = /password: (\S+)/.exec(output) ?? [];
  const session = await fetch(`http://127.0.0.1:${port}/sessions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: "admin", password }),
  });
  expect(session.status).toBe(201);
  expect(await (await get("/openapi.json")).json()).toMatchObject({ openapi: "3.1.0" });
});
