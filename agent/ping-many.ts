import { type Exec, ExecError } from "./exec.ts";

export interface PingMany {
  /** Of each target that was pinged, in the order they came. */
  rttsMs: Map<string, number[]>;
  /** Why something could not be sent, or the round was cut short; empty when all is well. */
  complaint: string;
}

const INTERVAL_MS = 200;
/** After its last request a ping waits this long for an answer; one that can't be sent for want of a neighbour may take more. */
const LAST_MS = 1000;
const SLOW_MS = 5000;
/** The first line of each ping. */
const BEGUN = /^PING ([0-9.]+) /m;
/** A duplicate of an answer ends otherwise. */
const REPLY = /^\d+ bytes from ([0-9.]+): icmp_seq=\d+ ttl=\d+ time=(\d+(?:\.\d+)?) ms$/;

/**
 * Pings addresses side by side, so many at once, each so many times. xargs starts the pings: that is one process for this one
 * to start, which costs it more by far than xargs, being so much larger. A target without an answer has an empty list; one that
 * was never pinged, because xargs came to its end before, is not there.
 *
 * Throws when xargs or ping can't be had, and when the signal ended it; that leaves no ping behind.
 */
export async function pingMany(
  exec: Exec,
  targets: readonly string[],
  { count, atOnce, signal }: { count: number; atOnce: number; signal: AbortSignal },
): Promise<PingMany> {
  const ping = ["ping", "-n", "-i", `${INTERVAL_MS / 1000}`, "-W", `${LAST_MS / 1000}`, "-c", `${count}`, "--"];
  const run = exec.run(["xargs", "-P", `${atOnce}`, "-n", "1", ...ping], {
    stdin: targets.map((target) => `${target}\n`).join(""),
    // A ping without an answer is a failure to xargs, and an answer to us.
    okCodes: [0, 123],
    timeoutMs: Math.ceil(targets.length / atOnce) * (count * INTERVAL_MS + LAST_MS + SLOW_MS),
    signal,
    parent: true,
  });
  // However it ended, the pings that were made are what they are.
  const { stdout, stderr, why } = await run.then(
    (result) => ({ ...result, why: "" }),
    (error: unknown) => {
      if (signal.aborted || !(error instanceof ExecError) || !BEGUN.test(error.stdout)) throw error;
      return { stdout: error.stdout, stderr: "", why: error.message };
    },
  );
  const rttsMs = new Map<string, number[]>(why === "" ? targets.map((target) => [target, []]) : []);
  // Lines of pings that run at once are mixed; each names whose it is.
  for (const line of stdout.split("\n")) {
    const begun = BEGUN.exec(line)?.[1];
    if (begun !== undefined && !rttsMs.has(begun)) rttsMs.set(begun, []);
    const [, target = "", rtt] = REPLY.exec(line) ?? [];
    rttsMs.get(target)?.push(Number(rtt));
  }
  return { rttsMs, complaint: (why || stderr).trim().slice(0, 300) };
}
