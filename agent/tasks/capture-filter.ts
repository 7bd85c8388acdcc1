import { spawn } from "node:child_process";
import { filterProblem } from "../../shared/capture-filter.ts";
import type { CaptureParams } from "../../shared/protocol/tasks.ts";
import { TaskError } from "./types.ts";

/** The filter that tcpdump runs: the operator's, without the capture's own way out and the control link. */
export function fullFilter(params: Pick<CaptureParams, "filter" | "exclude" | "uplink">): string {
  const hidden = [params.uplink, ...params.exclude].map((e) => `not (host ${e.address} and tcp port ${e.port})`);
  const asked = params.filter.trim();
  return [...(asked === "" ? [] : [`(${asked})`]), ...hidden].join(" and ");
}

/**
 * Compiles the operator's part alone, so that unbalanced brackets can't reach out of theirs. Throws
 * TaskError("bad_filter") with what the compiler said.
 *
 * @param linkType EN10MB for an ordinary interface, RAW for a tunnel
 */
export async function checkFilter(filter: string, linkType: "EN10MB" | "RAW"): Promise<void> {
  const problem = filterProblem(filter);
  if (problem !== undefined) throw new TaskError("bad_filter", problem);
  if (filter.trim() === "") return;
  const { code, stderr } = await run(["tcpdump", "-y", linkType, "-d", "--", filter]);
  if (code !== 0)
    throw new TaskError(
      "bad_filter",
      stderr
        .replace(/^tcpdump: /, "")
        .trim()
        .slice(0, 300),
    );
}

function run([file = "", ...args]: string[]): Promise<{ code: number | null; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"], timeout: 5000, killSignal: "SIGKILL" });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      if (stderr.length < 2000) stderr += text;
    });
    child.on("error", (error) => reject(new TaskError("capture_failed", `tcpdump could not start: ${error.message}`)));
    child.on("close", (code) => resolve({ code, stderr }));
  });
}
