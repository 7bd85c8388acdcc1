import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { bundle } from "../build-control-plane.ts";
import { ROOT } from "../lab/lab.ts";
import { UsageError } from "./arguments.ts";
import type { Report } from "./report.ts";
import type { AgentsCommand, AgentsStatus, ServerCommand } from "./swarm-messages.ts";
import { SwarmProcess } from "./swarm-process.ts";

export type SwarmServer = SwarmProcess<ServerCommand>;

/** How long a whole fleet may take to link for the first time. */
const CONNECT_MS = 150_000;

/** Throws when this process may not open as many files as a server of so many sockets needs. */
export function needFiles(agents: number): void {
  const limit = Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 1024);
  if (limit < agents + 200)
    throw new UsageError(
      `${agents} agents need ${agents + 200} open files and the limit is ${limit}: raise it (ulimit -n), or say --agents ${limit - 200}`,
    );
}

/**
 * Bundles the control plane with the bench's ears, as `npm start` runs it where it was built: how soon it is back counts in a
 * storm. Answers the program for {@link SwarmProcess.start}.
 */
export async function buildSwarmServer(): Promise<string> {
  const path = join(ROOT, "dist/bench/swarm-server.mjs");
  const { outputFiles } = await bundle("scripts/bench/swarm-server.ts", "dist/bench/swarm-server.mjs");
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, outputFiles[0]?.contents ?? "");
  return path;
}

/** Processes that together play the fleet, each from a loopback address of its own. */
export class Fleet {
  readonly #parts: SwarmProcess<AgentsCommand>[] = [];
  readonly #count: number;

  constructor(count: number) {
    this.#count = count;
  }

  /** Connects all hosts and waits until every one is linked and holds its first state. */
  async connect(report: Report, url: string, options: { bare: boolean }): Promise<void> {
    const parts = Math.max(2, Math.min(4, availableParallelism()));
    const share = Math.ceil(this.#count / parts);
    for (let i = 0; i < parts; i++) this.#parts.push(await SwarmProcess.start<AgentsCommand>("swarm-agents.ts"));
    const address = `${url.replace(/^http/, "ws")}${options.bare ? "" : "/agent/link"}`;
    await Promise.all(
      this.#parts.map((part, i) => {
        const [from, to] = [i * share, Math.min(this.#count, (i + 1) * share)];
        return part.ask({ do: "connect", url: address, from, to, localAddress: `127.0.0.${i + 2}`, ...options });
      }),
    );
    const all = await this.until(report, options.bare ? 0 : 1, CONNECT_MS);
    if (!all) throw new Error(`not all of ${this.#count} hosts were linked within ${CONNECT_MS / 1000} s`);
  }

  async status(rev: number): Promise<AgentsStatus> {
    const all = await Promise.all(this.#parts.map((part) => part.ask<AgentsStatus>({ do: "status", rev })));
    const sum = (of: (status: AgentsStatus) => number) => all.reduce((total, status) => total + of(status), 0);
    return {
      linked: sum((s) => s.linked),
      held: sum((s) => s.held),
      sockets: sum((s) => s.sockets),
      failed: sum((s) => s.failed),
      cpuSeconds: sum((s) => s.cpuSeconds),
    };
  }

  /**
   * Waits until every host is linked and holds this revision or a later one. Answers when half of them, 99% and all did (ms of
   * performance.now), or undefined when time ran out.
   */
  async until(
    report: Report,
    rev: number,
    timeoutMs: number,
  ): Promise<{ half: number; most: number; all: number } | undefined> {
    const from = performance.now();
    let toldAt = from;
    let half: number | undefined;
    let most: number | undefined;
    for (;;) {
      const status = await this.status(rev);
      const now = performance.now();
      if (status.held >= 0.5 * this.#count) half ??= now;
      if (status.held >= 0.99 * this.#count) most ??= now;
      if (status.held === this.#count) return { half: half ?? now, most: most ?? now, all: now };
      if (now - from > timeoutMs) return undefined;
      if (now - toldAt > 5000) {
        toldAt = now;
        report.progress(`${status.linked} linked, ${status.held} hold revision ${rev}`);
      }
      await sleep(50);
    }
  }

  async end(): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.kill9()));
  }
}
