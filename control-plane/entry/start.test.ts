import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

let root: string;
const FILES = {
  "control-plane/entry/node.ts": 'console.log("sources" as string);',
  "control-plane/app.ts": "export const app = 1;",
  "package-lock.json": "{}",
  "dist/control-plane/server.mjs": 'console.log("bundle");',
};

/** An installation whose bundle was made of what lies there. */
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "trunkline-start-"));
  for (const folder of ["control-plane/entry", "dist/control-plane"])
    mkdirSync(join(root, folder), { recursive: true });
  for (const [path, text] of Object.entries(FILES)) writeFileSync(join(root, path), text);
  copyFileSync(join(import.meta.dirname, "start.mjs"), join(root, "control-plane/entry/start.mjs"));
  const inputs = Object.entries(FILES).map(([path, text]) => [path, createHash("sha256").update(text).digest("hex")]);
  writeFileSync(join(root, "dist/control-plane/inputs.json"), JSON.stringify(Object.fromEntries(inputs)));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const started = () =>
  execFileSync(process.execPath, [join(root, "control-plane/entry/start.mjs")], { encoding: "utf8" }).trim();

test("a bundle made of exactly what lies here is run", () => {
  expect(started()).toBe("bundle");
});

test.each(Object.keys(FILES))("a stale bundle is never run: %s is another now", (path) => {
  writeFileSync(join(root, path), path.endsWith("node.ts") ? 'console.log("sources");' : "// another");
  expect(started()).toBe("sources");
});

test.each(["control-plane/app.ts", "package-lock.json", "dist/control-plane/server.mjs", "dist"])(
  "without %s the sources run",
  (path) => {
    rmSync(join(root, path), { recursive: true });
    expect(started()).toBe("sources");
  },
);

test("what lies broken where the list should be is no list", () => {
  writeFileSync(join(root, "dist/control-plane/inputs.json"), "{");
  expect(started()).toBe("sources");
});
