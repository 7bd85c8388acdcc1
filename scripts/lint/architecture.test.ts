import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";

const ROOT = resolve(import.meta.dirname, "../..");
const BIOME = join(ROOT, "node_modules/.bin/biome");

const SERVICE = "control-plane/services/x.ts";
const ROUTE = "control-plane/routes/x.ts";
const ANYWHERE = "scripts/x.ts";

/** What the linter has to refuse, where; and its neighbour that it has to let through. */
const REFUSED: [place: string, code: string][] = [
  ...["node:fs", "node:fs/promises", "ws", "@hono/node-server", "@hono/node-server/conninfo", "prom-client"].map(
    (name): [string, string] => [SERVICE, `import "${name}";`],
  ),
  ...["@libsql/client", "@libsql/client/web", "bullmq", "ioredis", "drizzle-orm/libsql/web"].map(
    (name): [string, string] => [SERVICE, `import "${name}";`],
  ),
  [SERVICE, 'import "../adapters/log/json.ts";'],
  [SERVICE, 'import "../entry/config.ts";'],
  [SERVICE, 'export const f = () => import("node:os");'],
  ...["setTimeout", "setInterval", "process", "Buffer", "globalThis.setTimeout"].map((name): [string, string] => [
    SERVICE,
    `export const f = () => ${name};`,
  ]),
  ...["Date.now()", "Date.now", "new Date()", "new Date", "Math.random()", "performance.now()"].map(
    (code): [string, string] => [SERVICE, `export const f = () => ${code};`],
  ),
  [SERVICE, "export const f = () => crypto.randomUUID();"],
  ...["jobs/x.ts", "ports/x.ts", "db/x.ts", "app.ts", "link/hub.ts", "routes/x.ts", "../shared/x.ts"]
    .map((file) => join("control-plane", file))
    .flatMap((file): [string, string][] => [
      [`control-plane/${file}`, 'import "node:fs";'],
      [`control-plane/${file}`, "export const f = () => Date.now();"],
      [`control-plane/${file}`, "export const f = () => setTimeout(() => {}, 1);"],
    ]),
  [ROUTE, 'import { eq } from "drizzle-orm";\nexport { eq };'],
  [ROUTE, 'import { text } from "drizzle-orm/sqlite-core";\nexport { text };'],
  [ROUTE, 'import * as t from "../db/schema/index.ts";\nexport { t };'],
  [ANYWHERE, 'import { exec } from "node:child_process";\nexport { exec };'],
  [ANYWHERE, 'import { execSync } from "node:child_process";\nexport { execSync };'],
  [ANYWHERE, 'import * as all from "node:child_process";\nexport { all };'],
  [ANYWHERE, 'import { spawn } from "node:child_process";\nexport const f = () => spawn("x", { shell: true });'],
  [ANYWHERE, 'import { spawn } from "node:child_process";\nexport const f = () => spawn("x", { shell: "/bin/sh" });'],
];
const ALLOWED: [place: string, code: string][] = [
  [SERVICE, "export const f = (at: number) => new Date(at).toISOString();"],
  [SERVICE, 'import { eq } from "drizzle-orm";\nexport { eq };'],
  ["control-plane/link/node.ts", "export const f = () => setTimeout(() => {}, Date.now());"],
  ["control-plane/adapters/x.ts", 'import { readFile } from "node:fs";\nexport { readFile };'],
  [ANYWHERE, 'import { spawn } from "node:child_process";\nexport const f = () => spawn("x", { shell: false });'],
];

let folder: string;
/** Paths, below the folder, of the files that the linter refused. */
let refused: Set<string>;

/** One tree for each case, so that one run of the linter judges them all. */
const caseFolder = (kind: string, i: number) => join("cases", `${kind}${i}`);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "trunkline-lint-"));
  await cp(join(ROOT, "scripts/lint"), join(folder, "scripts/lint"), { recursive: true });
  const anyDepth = (glob: string) => glob.replace(/^(!?)(?!\*\*)(?=[^!])/, "$1**/");
  const config = JSON.parse(await readFile(join(ROOT, "biome.json"), "utf8"), (key, value) =>
    // Ours, but the sources lie deeper here.
    key === "includes" && Array.isArray(value) ? value.map(anyDepth) : value,
  );
  await writeFile(join(folder, "biome.json"), JSON.stringify({ ...config, $schema: undefined, vcs: undefined }));
  for (const [kind, cases] of Object.entries({ refused: REFUSED, allowed: ALLOWED }))
    for (const [i, [place, code]] of cases.entries()) {
      const path = join(folder, caseFolder(kind, i), place);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, `${code}\n`);
    }
  const args = ["lint", "--reporter=github", "--max-diagnostics=none", "cases"];
  const { stdout } = await promisify(execFile)(BIOME, args, { cwd: folder }).catch(
    (error: { stdout: string }) => error,
  );
  refused = new Set([...stdout.matchAll(/^::error .*?file=([^,]+),/gm)].map(([, file]) => file as string));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const isRefused = (path: string) => [...refused].some((file) => file.endsWith(path));

test.each(REFUSED.map(([place, code], i) => ({ place, code, path: join(caseFolder("refused", i), place) })))(
  "$place may not: $code",
  ({ path }) => {
    expect(isRefused(path)).toBe(true);
  },
);

test.each(ALLOWED.map(([place, code], i) => ({ place, code, path: join(caseFolder("allowed", i), place) })))(
  "$place may: $code",
  ({ path }) => {
    expect(isRefused(path)).toBe(false);
  },
);
