import type { LabHost } from "./lab.ts";
import { poll } from "./poll.ts";
import { stopChild } from "./process.ts";

/** Pings that go on until stopped, with the moment of each answer. */
export interface EchoStream {
  /** UTC ms of the newest answer; 0 before the first. */
  lastAnswerAt(): number;
  /** Waits for an answer that comes after this call. */
  answers(timeoutMs?: number): Promise<void>;
  /** Waits until nothing has been answered for `quietMs`; gives the UTC ms of the last answer. */
  untilQuiet(quietMs?: number): Promise<number>;
  /** Ends it. Sent and lost so far, by sequence number; a request still on its way counts as lost. */
  stop(): Promise<{ sent: number; lost: number }>;
}

/** Pings `target` from a host every `intervalMs`. */
export function echoStream(host: LabHost, target: string, intervalMs = 10): EchoStream {
  const argv = ["ping", "-D", "-n", "-O", "-W", "1", "-i", `${intervalMs / 1000}`, "--", target];
  const child = host.ns.spawn(argv, { env: { LC_ALL: "C" } });
  const answered = new Set<number>();
  let last = 0;
  let rest = "";
  child.stderr?.resume();
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const match = /^\[([0-9.]+)\] [0-9]+ bytes from .*icmp_seq=([0-9]+)/.exec(line);
      if (match === null) continue;
      last = Number(match[1]) * 1000;
      answered.add(Number(match[2]));
    }
  });
  return {
    lastAnswerAt: () => last,
    async answers(timeoutMs = 10_000) {
      const from = Date.now();
      await poll(() => last > from, { what: `${host.name} to get an answer from ${target}`, timeoutMs });
    },
    async untilQuiet(quietMs = 1000) {
      await poll(() => Date.now() - last > quietMs, { what: `answers from ${target} to stop`, timeoutMs: 30_000 });
      return last;
    },
    async stop() {
      await stopChild(child, "SIGINT");
      const highest = Math.max(0, ...answered);
      return { sent: highest, lost: highest - answered.size };
    },
  };
}
