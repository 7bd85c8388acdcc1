import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildAgent } from "../build-agent.ts";
import { ROOT } from "../lab/lab.ts";

/** The agent as hosts run it: bundled from the present sources, with the flags of node and the environment that its unit gives. */
export interface Release {
  /** Arguments of node before the sub-command. */
  argv: string[];
  /** What the unit adds to the environment, but for the path. */
  env: Record<string, string>;
  remove(): void;
}

export async function buildRelease(): Promise<Release> {
  const out = mkdtempSync(join(tmpdir(), "trunkline-bench-agent-"));
  const { dir } = await buildAgent({ out });
  const unit = readFileSync(join(ROOT, "scripts/install/trunkline-agent.service"), "utf8");
  const command = /^ExecStart=(.*)$/m.exec(unit)?.[1]?.split(/\s+/) ?? [];
  const flags = command.filter((word) => word.startsWith("--"));
  const pairs = (/^Environment=(.*)$/m.exec(unit)?.[1]?.split(/\s+/) ?? []).map((pair) => pair.split("=", 2));
  const env = Object.fromEntries(pairs.filter(([name]) => name !== "PATH"));
  const remove = () => rmSync(out, { recursive: true, force: true });
  return { argv: [...flags, join(dir, "agent.mjs")], env, remove };
}
