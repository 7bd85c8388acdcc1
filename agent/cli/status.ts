import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../config.ts";
import { readJson } from "../durable-file.ts";
import { UpgradeFiles } from "../upgrade/files.ts";

/** What the daemon writes for whoever stands before the host. Three things apart: link, revision, problems. */
export const statusSchema = z.object({
  at: z.string(),
  pid: z.number(),
  version: z.string(),
  hostId: z.string(),
  role: z.string(),
  link: z.object({ phase: z.string(), endpoint: z.string(), since: z.string().nullable() }),
  accepted: z.number().nullable(),
  applied: z.number().nullable(),
  problems: z.array(z.object({ item: z.string(), error: z.string() })),
});
export type AgentStatus = z.infer<typeof statusSchema>;

/** Reads the daemon's status as lines of text. Throws {@link UsageError} when there is none. */
export function showStatus(stateDir: string, json: boolean): string {
  const result = readJson(join(stateDir, "status.json"), statusSchema);
  if (result.kind !== "ok")
    throw new UsageError(
      `There is no status in ${stateDir} (${result.kind}). Is the agent running, and is this its --state-dir?`,
    );
  const s = result.value;
  const upgrade = upgradeOf(stateDir);
  if (json) return JSON.stringify({ ...s, ...upgrade }, null, 2);
  const revision = (rev: number | null) => (rev === null ? "none" : String(rev));
  return [
    `host      ${s.hostId} (${s.role}), agent ${s.version}, pid ${s.pid}${isAlive(s.pid) ? "" : " (not running!)"}`,
    `link      ${s.link.phase} ${s.link.endpoint}${s.link.since ? ` since ${s.link.since}` : ""}`,
    `revision  accepted ${revision(s.accepted)}, applied ${revision(s.applied)}`,
    ...describeUpgrade(upgrade),
    ...s.problems.map((p) => `problem   ${p.item}: ${p.error}`),
    `as of     ${s.at}`,
  ].join("\n");
}

/** A version on trial, or the last one that was given up. */
function upgradeOf(stateDir: string) {
  const files = new UpgradeFiles(stateDir);
  return { trial: files.trial() ?? null, returned: files.returned() ?? null };
}

function describeUpgrade({ trial, returned }: ReturnType<typeof upgradeOf>): string[] {
  if (trial !== null)
    return [`upgrade   ${trial.to} on trial, start ${trial.starts}; ${trial.from} comes back unless it is confirmed`];
  return returned === null ? [] : [`upgrade   ${returned.to} was given up: ${returned.reason}`];
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
