import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import type { Namespace } from "./netns.ts";
import { poll } from "./poll.ts";
import type { TaskJob, TaskLine } from "./run-task.ts";

/** A task that runs in a namespace as a process of its own. */
export interface RunningTask {
  child: ChildProcess;
  /** All it has said so far. */
  lines: TaskLine[];
  events(): unknown[];
  /** Resolves when it has said an event of this type. */
  event(type: string): Promise<unknown>;
  ready(): Promise<unknown>;
  /** Its last word: a result or an error. Throws when there is none within 30 s. */
  end(): Promise<Extract<TaskLine, { type: "result" | "error" }>>;
  /** As task.cancel does. */
  cancel(): void;
}

/** Starts one of the agent's tasks in a namespace, without an agent. */
export function startTask(ns: Namespace, job: TaskJob): RunningTask {
  const program = join(import.meta.dirname, "run-task.ts");
  const child = ns.spawn([process.execPath, program], { stdin: "pipe" });
  child.stdin?.end(JSON.stringify(job));
  const lines: TaskLine[] = [];
  let complaints = "";
  if (!child.stdout || !child.stderr) throw new Error("no pipes");
  child.stderr.on("data", (chunk: Buffer) => {
    complaints += chunk;
  });
  const closed = new Promise<void>((resolve) => {
    createInterface({ input: child.stdout ?? process.stdin })
      .on("line", (line) => lines.push(JSON.parse(line) as TaskLine))
      .on("close", resolve);
  });
  const events = () => lines.flatMap((line) => (line.type === "event" ? [line.data] : []));
  const last = () => lines.find((line) => line.type === "result" || line.type === "error");
  return {
    child,
    lines,
    events,
    event: (type) =>
      poll(
        () => {
          const found = events().find((e) => (e as { type?: string }).type === type);
          if (!found && last()) throw new Error(`it ended: ${JSON.stringify(last())}`);
          return found;
        },
        { what: `the task's event ${type}` },
      ),
    ready: () => poll(() => lines.length > 0, { what: "the task to start" }),
    end: async () => {
      await Promise.race([closed, delay(30_000, undefined, { ref: false })]);
      const end = last();
      if (end?.type !== "result" && end?.type !== "error") throw new Error(`the task came to no end: ${complaints}`);
      return end;
    },
    cancel: () => void child.kill("SIGTERM"),
  };
}
