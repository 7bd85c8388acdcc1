import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..");
const MARK = "<!-- readme-test:";

let folder: string | undefined;
let shell: ChildProcess | undefined;

afterEach(async () => {
  // Its own process group: the server that the lines start in the background ends with it.
  if (shell?.pid !== undefined) {
    try {
      process.kill(-shell.pid, "SIGTERM");
    } catch {
      // all of it has ended
    }
  }
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
});

/** The lines of the shell block that follows the mark. */
function printedLines(): string {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const after = readme.slice(readme.indexOf(MARK));
  const lines = /```sh\n([\s\S]*?)```/.exec(after)?.[1];
  if (lines === undefined) throw new Error("the README has no marked block");
  return lines;
}

test("the README's curl lines work as printed: a customer pays for a line", async () => {
  // A folder of its own, so that ./data is fresh; the project is linked in, and npm start runs there.
  folder = mkdtempSync(join(tmpdir(), "trunkline-readme-"));
  for (const name of ["control-plane", "shared", "migrations", "node_modules", "package.json"])
    symlinkSync(join(ROOT, name), join(folder, name));
  const script = join(folder, "lines.sh");
  writeFileSync(script, `set -euo pipefail\n${printedLines()}`);
  shell = spawn("bash", [script], { cwd: folder, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  shell.stdout?.on("data", (chunk) => {
    output += chunk;
  });
  shell.stderr?.on("data", (chunk) => {
    output += chunk;
  });
  const [code] = await once(shell, "exit");
  const log = join(folder, "trunkline.log");
  expect(code, `${output}\n${existsSync(log) ? readFileSync(log, "utf8") : ""}`).toBe(0);
  // 29,900 × 12 less a fifth.
  expect(output).toContain('"state":"paid"');
  expect(output).toContain(`"balanceFen":${500_000 - 287_040}`);
  expect(output).toContain('"state":"provisioning"');
});
