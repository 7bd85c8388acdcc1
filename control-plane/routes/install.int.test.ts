import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import type { Releases } from "../ports/index.ts";
import { makeHarness } from "../testing/harness.ts";

const TEMPLATE = readFileSync(resolve(import.meta.dirname, "../../scripts/install/install.sh"));
const FILES: Record<string, Uint8Array> = { "install.sh": TEMPLATE, "agent.mjs": Buffer.from("the agent") };
const KEY = "l2bFqBBtFSTqQfkPVLqsRkuF7NBSOkzUtvc9nmYOZ3w=";
const release = {
  version: "1.2.3",
  stateSchema: { writes: 1, reads: 1 },
  files: Object.entries(FILES).map(([name, bytes]) => ({ name, size: bytes.length, sha256: "a".repeat(64) })),
};
const releases: Releases = {
  versions: async () => [release.version],
  latest: async () => release,
  signed: async () => undefined,
  keys: async () => [KEY],
  async open(version, name, from = 0) {
    const file = release.files.find((one) => one.name === name);
    if (version !== release.version || file === undefined) return undefined;
    return { ...file, body: new Blob([new Uint8Array(FILES[name] ?? []).slice(from)]).stream() };
  },
};

test("the installer names this control plane, the version and each file's hash, and is a shell script", async () => {
  const h = await makeHarness({ releases, settings: { publicUrl: "https://cp.example" } });
  const answer = await h.request("GET", "/install?role=exit");
  expect([answer.status, answer.headers.get("content-type")]).toEqual([200, "text/x-shellscript; charset=utf-8"]);
  expect(answer.text).toMatch(/^URL='https:\/\/cp\.example'$/m);
  expect(answer.text).toMatch(/^VERSION='1\.2\.3'$/m);
  expect(answer.text).toMatch(/^ROLE='exit'$/m);
  expect(answer.text).toContain(`\nRELEASE_KEYS='${KEY}'\n`);
  expect(answer.text).toContain(`agent.mjs ${"a".repeat(64)}`);
  expect(answer.text).not.toMatch(/'@[A-Z_]+@'/);
  for (const shell of ["sh", "bash"])
    expect(spawnSync(shell, ["-n"], { input: answer.text, encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
});

test("what stands in the configuration can't become a command of the installer", async () => {
  const publicUrl = "https://cp.example/';echo '$(id)`id`";
  const h = await makeHarness({ releases, settings: { publicUrl } });
  const { text } = await h.request("GET", "/install");
  const [line = ""] = /^URL=.*$/m.exec(text) ?? [];
  const { stdout } = spawnSync("sh", [], { input: `${line}\nprintf %s "$URL"`, encoding: "utf8" });
  expect(stdout).toBe(publicUrl);
});

test("a role that is none is refused; so is a file that no release has; without a build both are not found", async () => {
  const h = await makeHarness({ releases });
  expect((await h.request("GET", "/install?role=boss")).body.code).toBe("validation_failed");
  const file = await h.request("GET", "/agent/releases/1.2.3/agent.mjs");
  expect([file.status, file.text, file.headers.get("content-length")]).toEqual([200, "the agent", "9"]);
  const rest = await h.request("GET", "/agent/releases/1.2.3/agent.mjs", undefined, { headers: { range: "bytes=4-" } });
  expect([rest.status, rest.text, rest.headers.get("content-range")]).toEqual([206, "agent", "bytes 4-8/9"]);
  for (const range of ["bytes=9-", "bytes=0-3", "bytes=-4", "lines=1-", "bytes=99999999999999-"])
    expect((await h.request("GET", "/agent/releases/1.2.3/agent.mjs", undefined, { headers: { range } })).text).toBe(
      "the agent",
    );
  for (const path of ["1.2.4/agent.mjs", "1.2.3/other", "1.2.3/..%2Fagent.mjs", "..%2F/agent.mjs"])
    expect([path, (await h.request("GET", `/agent/releases/${path}`)).status]).toEqual([path, 404]);
  const bare = await makeHarness();
  expect((await bare.request("GET", "/install")).status).toBe(404);
});
