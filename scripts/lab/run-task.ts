import { once } from "node:events";
import { text } from "node:stream/consumers";
import { runCapture } from "../../agent/tasks/capture.ts";
import { runPing } from "../../agent/tasks/ping.ts";
import { type TaskContext, TaskError } from "../../agent/tasks/types.ts";
import { createUplink } from "../../agent/tasks/uplink.ts";
import { fromBase64 } from "../../shared/canonical.ts";
import type { UplinkItem } from "../../shared/protocol/desired-state.ts";
import type { TaskRequest } from "../../shared/protocol/tasks.ts";

/** What the process takes on its standard input: a task, and the host it is to believe it runs on. */
export interface TaskJob {
  task: Exclude<TaskRequest, { kind: "upgrade" }>;
  /** Plain text that `openSealed` hands out, base 64. */
  secret?: string;
  endpoint?: string;
  tunnel?: string;
  outside?: string;
  uplinks?: UplinkItem[];
  /** Start the capture a second time at once, and say as an event how that ended. */
  twice?: boolean;
}

/** A line of its standard output. */
export type TaskLine =
  | { type: "ready" }
  | { type: "event"; data: unknown }
  | { type: "result"; result: unknown }
  | { type: "error"; code: string; detail: string };

/**
 * Runs one agent task without an agent, in whatever namespace this process is started: for lab tests. SIGTERM cancels
 * the task, as `task.cancel` does.
 */
async function main(): Promise<void> {
  const job = JSON.parse(await text(process.stdin)) as TaskJob;
  const say = (line: TaskLine) => process.stdout.write(`${JSON.stringify(line)}\n`);
  const abort = new AbortController();
  process.once("SIGTERM", () => abort.abort());
  const ctx: TaskContext = {
    signal: abort.signal,
    emit: (data) => say({ type: "event", data }),
    hostInfo: { tunnelInterface: () => job.tunnel, outsideInterface: async () => job.outside ?? "eth0" },
    openSealed: () => fromBase64(job.secret ?? ""),
    way: () => ({ url: job.endpoint ?? "http://192.0.2.1" }),
    now: () => Date.now(),
  };
  const uplink = createUplink();
  try {
    await uplink.configure(job.uplinks ?? []);
    say({ type: "ready" });
    const { task } = job;
    if (task.kind === "ping") say({ type: "result", result: await runPing(task.params, ctx) });
    else if (task.kind === "capture") {
      const capture = runCapture(task.params, ctx);
      if (job.twice) {
        const code = await runCapture(task.params, ctx).catch((error: TaskError) => error.code);
        say({ type: "event", data: { type: "second", code } });
      }
      say({ type: "result", result: await capture });
    } else say({ type: "result", result: await uplink.run(task.params, ctx) });
  } catch (error) {
    const code = error instanceof TaskError ? error.code : "thrown";
    say({ type: "error", code, detail: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  } finally {
    await uplink.close();
  }
  if (process.stdout.writableLength > 0) await once(process.stdout, "drain");
}

if (import.meta.main) await main();
