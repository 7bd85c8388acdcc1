import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { missingPackages, NEEDED } from "./setup.ts";

test("a package is missing when its program is in no folder, or can't be run", () => {
  const dir = mkdtempSync(join(tmpdir(), "setup-"));
  try {
    expect(missingPackages([dir])).toEqual(NEEDED.map((n) => n.package));
    for (const { program } of NEEDED) writeFileSync(join(dir, program), "", { mode: 0o755 });
    expect(missingPackages(["/nonexistent", dir])).toEqual([]);
    chmodSync(join(dir, "wg"), 0o644);
    expect(missingPackages([dir])).toEqual(["wireguard-tools"]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
