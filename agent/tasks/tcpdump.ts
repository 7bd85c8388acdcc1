import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { lineSplitter } from "./lines.ts";

/** What tcpdump counted, from its last words. */
export interface TcpdumpCounts {
  receivedByFilter: number;
  droppedByKernel: number;
}

/** Reads "6 packets received by filter" and its like out of tcpdump's standard error. */
export function parseCounts(stderr: string): TcpdumpCounts | undefined {
  const last = (what: string) => [...stderr.matchAll(new RegExp(`(\\d+) packets? ${what}`, "g"))].at(-1)?.[1];
  const received = last("received by filter");
  const dropped = last("dropped by kernel");
  if (received === undefined || dropped === undefined) return undefined;
  return { receivedByFilter: Number(received), droppedByKernel: Number(dropped) };
}

/** After this long without an end, an interrupted tcpdump is killed. */
const GRACE_MS = 3000;

/** A running tcpdump that writes pcap to its standard output. */
export class Tcpdump {
  /** Resolves when it listens; rejects with what it said when it ends before. */
  readonly listening: Promise<void>;
  /** Resolves with all it said, once it has ended and its output was read to the end. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcessByStdio<null, Readable, Readable>;

  /** `filter` must have been checked. Buffer 4 MiB: what the kernel holds while the uplink is slow. */
  constructor(options: { interface: string; snapLength: number; filter: string }) {
    const argv = ["-i", options.interface, "-n", "-U", "-w", "-", "--immediate-mode", "-s", `${options.snapLength}`];
    this.#child = spawn("tcpdump", [...argv, "-B", "4096", "-Z", "tcpdump", "--", options.filter], {
      env: { PATH: process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let said = "";
    const started = Promise.withResolvers<void>();
    const words = lineSplitter((line) => {
      if (said.length < 16_384) said += `${line}\n`;
      if (/\blistening on\b/.test(line)) started.resolve();
    });
    this.#child.stderr.setEncoding("utf8").on("data", words);
    const closed = Promise.withResolvers<string>();
    this.#child.on("error", (error) => {
      started.reject(new Error(`tcpdump could not start: ${error.message}`));
      closed.resolve(said);
    });
    this.#child.on("close", () => {
      started.reject(new Error(said.trim().slice(0, 300) || "tcpdump ended at once"));
      closed.resolve(said);
    });
    this.listening = started.promise;
    this.listening.catch(() => {}); // whoever awaits it sees it; nobody may
    this.ended = closed.promise;
  }

  get output(): Readable {
    return this.#child.stdout;
  }

  /** Asks it to flush and end; kills it when it does not. */
  stop(): void {
    this.#child.kill("SIGINT");
    const timer = setTimeout(() => this.kill(), GRACE_MS);
    this.ended.finally(() => clearTimeout(timer));
  }

  /** Ends it at once; its output ends with it. */
  kill(): void {
    this.#child.kill("SIGKILL");
  }
}
