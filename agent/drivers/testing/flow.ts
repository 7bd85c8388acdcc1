import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Namespace } from "../../../scripts/lab/netns.ts";
import { poll } from "../../../scripts/lab/poll.ts";
import { stopChild } from "../../../scripts/lab/process.ts";

const script = (name: string) => join(import.meta.dirname, name);

/** A UDP echo server in a namespace that signs its answers with a tag. */
export async function startEcho(ns: Namespace, port: number, tag: string): Promise<ChildProcess> {
  const child = ns.spawn([process.execPath, script("udp-echo.ts"), String(port), tag]);
  if (!child.stdout) throw new Error("no pipe from udp-echo");
  await once(child.stdout, "data");
  return child;
}

/** One UDP flow that never pauses, and who answered it. */
export class UdpFlow {
  readonly #child: ChildProcess;
  #answers: { tag: string; seq: number; at: number }[] = [];

  constructor(ns: Namespace, address: string, port: number, name = "flow") {
    this.#child = ns.spawn([process.execPath, script("udp-client.ts"), address, String(port), name]);
    let rest = "";
    this.#child.stdout?.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const [tag = "", , seq] = line.split(" ");
        this.#answers.push({ tag, seq: Number(seq), at: performance.now() });
      }
    });
  }

  /** Waits until this many answers came after now, and gives their tags. */
  async next(count = 5, what = "answers"): Promise<string[]> {
    const from = this.#answers.length;
    await poll(() => this.#answers.length >= from + count, { what, timeoutMs: 10_000 });
    return this.#answers.slice(from, from + count).map((a) => a.tag);
  }

  /** Answers so far. */
  get count(): number {
    return this.#answers.length;
  }

  /** Datagrams between the first and the last answer that were not answered. */
  lost(): number {
    const first = this.#answers.at(0)?.seq ?? 0;
    const last = this.#answers.at(-1)?.seq ?? 0;
    return last - first + 1 - new Set(this.#answers.map((a) => a.seq)).size;
  }

  /** True when `ms` pass without any answer, after `afterMs` at most. */
  async falls(silentMs = 400): Promise<void> {
    const started = performance.now();
    await poll(() => performance.now() - Math.max(started, this.#answers.at(-1)?.at ?? 0) > silentMs, {
      what: "the flow to stop",
      timeoutMs: 5000,
    });
  }

  stop(): Promise<void> {
    return stopChild(this.#child, "SIGKILL");
  }
}
