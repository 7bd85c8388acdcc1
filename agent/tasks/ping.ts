import { spawn } from "node:child_process";
import type { PingEvent, PingParams, PingResult } from "../../shared/protocol/tasks.ts";
import { lineSplitter } from "./lines.ts";
import { parsePingLine } from "./ping-output.ts";
import { type PingReply, pingStatistics } from "./ping-statistics.ts";
import { type TaskContext, TaskError } from "./types.ts";

/** Ping ends by itself this long after its last request at the latest; later it is killed. */
const GRACE_MS = 5000;

/** What a ping needs of its task; a probe has it too. */
type PingContext = Pick<TaskContext, "signal" | "emit" | "now">;

/**
 * Pings an address from this host and emits a {@link PingEvent} for each answer and each silence as they happen. Cancelled,
 * it ends with the result so far. Errors: `ping_failed` when nothing could be sent at all (no route, no such interface).
 */
export const runPing = (params: PingParams, ctx: PingContext) =>
  new Promise<PingResult>((resolve, reject) => {
    const child = spawn("ping", pingArgs(params), {
      // C, because the output is parsed; nothing else of our environment is ping's business.
      env: { PATH: process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const record = new PingRecord(ctx);
    const stop = () => child.kill("SIGINT");
    // A ping that does not end (stopped, or stuck in the kernel) must not hold the task for ever.
    const limit = setTimeout(() => child.kill("SIGKILL"), params.count * params.intervalMs + GRACE_MS);
    const done = () => {
      clearTimeout(limit);
      ctx.signal.removeEventListener("abort", stop);
    };
    child.stdout.setEncoding("utf8").on(
      "data",
      lineSplitter((line) => record.read(line)),
    );
    child.stderr.setEncoding("utf8").on("data", (text: string) => record.complain(text));
    child.on("error", (error) => {
      done();
      reject(new TaskError("ping_failed", `ping could not start: ${error.message}`));
    });
    child.on("close", () => {
      done();
      const result = record.finish(ctx.signal.aborted, ctx.now());
      if (result) resolve(result);
      else reject(new TaskError("ping_failed", record.complaint || "ping sent nothing"));
    });
    if (ctx.signal.aborted) stop();
    else ctx.signal.addEventListener("abort", stop, { once: true });
  });

/** The argv of ping. Every value is a number or was checked to be an address or an interface name. */
export function pingArgs(params: PingParams): string[] {
  const from = params.interface === null ? [] : ["-I", params.interface];
  const interval = `${params.intervalMs / 1000}`;
  return ["-D", "-O", "-n", "-i", interval, "-W", "1", "-c", `${params.count}`, ...from, "--", params.target];
}

/** What has been seen of one ping so far. */
class PingRecord {
  readonly #emit: (event: PingEvent) => void;
  readonly #replies: PingReply[] = [];
  readonly #silent = new Set<number>();
  #highest = 0;
  #sent: number | undefined;
  #complaint = "";

  constructor(ctx: Pick<TaskContext, "emit">) {
    this.#emit = (event) => ctx.emit(event);
  }

  get complaint(): string {
    return this.#complaint.trim().slice(0, 300);
  }

  complain(text: string): void {
    if (this.#complaint.length < 1000) this.#complaint += text;
  }

  read(line: string): void {
    const seen = parsePingLine(line);
    if (!seen) return;
    if (seen.type === "sent") {
      this.#sent = seen.count;
      return;
    }
    this.#highest = Math.max(this.#highest, seen.seq);
    if (seen.type === "reply") {
      this.#replies.push({ seq: seen.seq, rttMs: seen.rttMs });
      this.#emit(seen);
    } else if (!this.#silent.has(seen.seq)) {
      // "Unreachable" often follows "no answer yet" of the same request, and comes once for each of several probes.
      this.#silent.add(seen.seq);
      if (seen.type === "refused") this.complain(`${seen.why}\n`);
      this.#emit({ type: "no_answer_yet", seq: seen.seq, at: seen.at });
    }
  }

  /** Undefined when ping never got as far as sending. */
  finish(interrupted: boolean, now: number): PingResult | undefined {
    let sent = this.#sent ?? this.#highest;
    if (sent === 0 && !interrupted) return undefined;
    const settled = this.#silent.has(sent) || this.#replies.some((reply) => reply.seq === sent);
    if (sent > 0 && !settled) {
      // A stop catches the last request on its way: it is not answered, but not lost either. Without a stop it had
      // its second, and ping says nothing of it because no further request followed.
      if (interrupted) sent--;
      else this.#emit({ type: "no_answer_yet", seq: sent, at: now });
    }
    return pingStatistics(sent, this.#replies);
  }
}
