import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { readJson } from "../durable-file.ts";
import type { Exec } from "../exec.ts";
import { allPids, argvOf, environmentOf, statOf } from "../proc.ts";
import { type SeenService, type ServiceSpec, type Services, sameArgv } from "./services.ts";

/** In the environment of a service and of all it forks: which record it belongs to. */
const MARKER = "TRUNKLINE_SERVICE";
const START_MS = 5000;
const END_MS = 5000;

const recordSchema = z.object({ pid: z.number().int().positive(), startTime: z.string() });
type Record_ = z.infer<typeof recordSchema>;

/**
 * Services where there is no systemd: each is a detached process that leads its own session and group, so that it
 * outlives the agent and one signal ends it with all its children. A record in the state directory says which process
 * it is, by pid and start time; a restarted agent finds it there and adopts it. The records need no fsync: what they
 * name does not survive a power cut either.
 */
export class DetachedServices implements Services {
  readonly #exec: Exec;
  readonly #dir: string;
  #searched = false;

  /** @param dir where the records are, a folder of the state directory */
  constructor(exec: Exec, dir: string) {
    this.#exec = exec;
    this.#dir = dir;
  }

  async list(prefix: string): Promise<SeenService[]> {
    if (!this.#searched) this.#adoptUnrecorded();
    return this.#names(prefix).map((name) => {
      const record = this.#record(name);
      return runs(record) ? { name, pid: record.pid, argv: argvOf(record.pid) } : { name, pid: null, argv: [] };
    });
  }

  async start({ name, argv, via = [] }: ServiceSpec): Promise<number> {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const pid = await this.#exec.detach([...via, ...argv], { [MARKER]: this.#path(name) });
    const stat = statOf(pid);
    if (stat) this.#save(name, { pid, startTime: stat.startTime });
    // Until the program has been loaded the process still is what started it.
    const before = performance.now() + START_MS;
    while (!sameArgv(argvOf(pid), argv)) {
      if (!statOf(pid)) throw new Error(`${argv[0]} ended at once (${name}); is it installed?`);
      if (performance.now() > before) throw new Error(`${name} did not start within ${START_MS} ms`);
      await sleep(2);
    }
    return pid;
  }

  async stop(name: string): Promise<void> {
    const record = this.#record(name);
    const led = runs(record);
    // Without its leader the group's number could be a stranger's by now: then each member is looked at.
    if (led) signal(-record.pid);
    else for (const pid of this.#members(name)) signal(pid);
    const before = performance.now() + END_MS;
    while (led ? !groupIsEmpty(record.pid) : this.#members(name).length > 0) {
      if (performance.now() > before) throw new Error(`${name} does not end`);
      await sleep(2);
    }
    rmSync(this.#path(name), { force: true });
  }

  #path(name: string): string {
    return join(this.#dir, `${name}.json`);
  }

  #names(prefix: string): string[] {
    try {
      const files = readdirSync(this.#dir).filter((file) => file.startsWith(prefix) && file.endsWith(".json"));
      return files.map((file) => file.slice(0, -".json".length)).sort();
    } catch {
      return []; // nothing was ever started
    }
  }

  /** A record that can't be read is one whose process is not known: it counts as not running and is started anew. */
  #record(name: string): Record_ | null {
    const result = readJson(this.#path(name), recordSchema);
    return result.kind === "ok" ? result.value : null;
  }

  #save(name: string, record: Record_): void {
    writeFileSync(`${this.#path(name)}.new`, JSON.stringify(record), { mode: 0o600 });
    renameSync(`${this.#path(name)}.new`, this.#path(name));
  }

  #members(name: string): number[] {
    return allPids().filter((pid) => environmentOf(pid, MARKER) === this.#path(name));
  }

  /** Once a run: an agent that died between starting a process and recording it left one that no record names. */
  #adoptUnrecorded(): void {
    this.#searched = true;
    for (const pid of allPids()) {
      const stat = statOf(pid);
      if (stat?.group !== pid) continue;
      const name = markedName(pid, this.#dir);
      if (name !== undefined && !runs(this.#record(name))) this.#save(name, { pid, startTime: stat.startTime });
    }
  }
}

function runs(record: Record_ | null): record is Record_ {
  return record !== null && statOf(record.pid)?.startTime === record.startTime;
}

function markedName(pid: number, dir: string): string | undefined {
  const text = environmentOf(pid, MARKER);
  const [folder, file] = text === undefined ? [] : [text.slice(0, dir.length), text.slice(dir.length + 1)];
  return folder === dir && file?.endsWith(".json") ? file.slice(0, -".json".length) : undefined;
}

function signal(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Of a group that was just killed: true when none of it is left, but for those that wait to be reaped. */
function groupIsEmpty(group: number): boolean {
  try {
    process.kill(-group, 0);
  } catch {
    return true;
  }
  return !allPids().some((pid) => statOf(pid)?.group === group);
}
