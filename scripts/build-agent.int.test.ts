import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { VERSION } from "../agent/facts.ts";
import { directoryReleases } from "../control-plane/adapters/releases/directory.ts";
import { buildAgent } from "./build-agent.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "trunkline-build-"));
});
afterAll(() => rmSync(dir, { recursive: true }));

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test("the agent says package.json's version, from its sources and from its bundle", async () => {
  const packageJson = JSON.parse(readFileSync(join(import.meta.dirname, "../package.json"), "utf8"));
  expect(VERSION).toBe(packageJson.version);
  const built = await buildAgent({ out: join(dir, "one") });
  expect(built.manifest.version).toBe(packageJson.version);
  expect(readFileSync(join(built.dir, "agent.mjs"), "utf8")).toContain(`"${packageJson.version}"`);
});

test("the same sources give the same bytes, wherever they are built, and the manifest names each file's", async () => {
  const [one, two] = [
    await buildAgent({ out: join(dir, "one") }),
    await buildAgent({ out: join(dir, "deeper/and/elsewhere") }),
  ];
  expect(two.manifest).toEqual(one.manifest);
  for (const { name, size, sha256: named } of one.manifest.files) {
    const bytes = readFileSync(join(one.dir, name));
    expect([name, bytes.length, sha256(bytes)]).toEqual([name, size, named]);
  }
});

test("the bundle runs alone: in an empty folder, with no package near it", async () => {
  const { dir: built } = await buildAgent({ out: join(dir, "one") });
  const alone = join(dir, "alone.mjs");
  writeFileSync(alone, readFileSync(join(built, "agent.mjs")));
  const help = spawnSync(process.execPath, [alone, "--help"], { cwd: dir, encoding: "utf8" });
  expect([help.status, help.stderr]).toEqual([0, ""]);
  expect(help.stdout).toContain("Trunkline's agent");
  const run = spawnSync(process.execPath, [alone, "run", "--config", join(dir, "none.json")], { encoding: "utf8" });
  expect([run.status, run.stderr]).toEqual([2, expect.stringContaining("Enrol this host first")]);
});

test("a control plane hands out the newest release with its runtime, and no file that no manifest names", async () => {
  const out = join(dir, "many");
  for (const version of ["0.9.0", "0.10.0", "0.11.0-rc.1"]) await buildAgent({ out, version });
  const releases = directoryReleases(out);
  const latest = await releases.latest();
  expect(latest?.version).toBe("0.10.0");
  const node = latest?.files.find((file) => file.name === `node-linux-${process.arch}`);
  const opened = await releases.open("0.10.0", node?.name ?? "");
  const hash = createHash("sha256");
  for await (const chunk of opened?.body ?? []) hash.update(chunk);
  expect(hash.digest("hex")).toBe(node?.sha256);

  writeFileSync(join(out, "0.10.0", "notes.txt"), "not for everyone");
  for (const [version, name] of [
    ["0.10.0", "notes.txt"],
    ["0.10.0", "../0.9.0/agent.mjs"],
    ["..", "many"],
    ["1.0.0", "agent.mjs"],
  ] as const)
    expect(await releases.open(version, name)).toBeUndefined();
  expect(await directoryReleases(join(dir, "nothing")).latest()).toBeUndefined();
});

test("a file that is asked for and not read, or read in part, is not kept open", async () => {
  const out = join(dir, "one");
  const { manifest } = await buildAgent({ out });
  const releases = directoryReleases(out);
  const openFiles = () => readdirSync("/proc/self/fd").length;
  const take = () => releases.open(manifest.version, `node-linux-${process.arch}`);
  await take(); // hashed now, and not while we count
  const before = openFiles();
  for (let i = 0; i < 20; i++) await take();
  for (let i = 0; i < 5; i++) {
    const reader = (await take())?.body.getReader();
    await reader?.read();
    await reader?.cancel();
  }
  await expect.poll(openFiles).toBeLessThanOrEqual(before);
});
