import { type ChildProcess, execFile, spawn as nodeSpawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { poll } from "./poll.ts";

/** How a command ended. `code` is null when a signal ended it. */
export interface ExecResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface ExecOptions {
  /** Text for standard input; without it standard input is empty. */
  input?: string | Uint8Array;
  /** Added to the environment of this process. */
  env?: Record<string, string>;
  /** The whole environment instead of an addition to ours. */
  bareEnv?: Record<string, string>;
  cwd?: string;
  /** Killed after this long (default 60 s). */
  timeoutMs?: number;
  /** False: hand back a failure as a result rather than throwing {@link ExecError}. */
  check?: boolean;
  signal?: AbortSignal;
}

/** A command failed: which one, how, and what it said. */
export class ExecError extends Error {
  readonly result: ExecResult;
  constructor(argv: readonly string[], result: ExecResult, why?: string) {
    super(`${argv.join(" ")} failed (${why ?? result.code}): ${result.stderr.trim() || result.stdout.trim()}`);
    this.name = "ExecError";
    this.result = result;
  }
}

/** Runs a command by argv, never through a shell, and gathers its output. */
export function exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
  const [file = "", ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = execFile(
      file,
      args,
      {
        env: options.bareEnv ?? { ...process.env, ...options.env },
        ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
        timeout: options.timeoutMs ?? 60_000,
        killSignal: "SIGKILL",
        maxBuffer: 256 * 1024 * 1024,
        ...(options.signal ? { signal: options.signal } : {}),
      },
      (error, stdout, stderr) => {
        const code = error ? (typeof error.code === "number" ? error.code : null) : 0;
        const result = { code, stdout, stderr };
        if (error && options.check !== false) {
          reject(new ExecError(argv, result, code === null ? (error.signal ?? error.message) : undefined));
        } else resolve(result);
      },
    );
    // The command may end without reading its input; that is its business.
    child.stdin?.on("error", () => {});
    child.stdin?.end(options.input ?? "");
  });
}

export interface SpawnOptions {
  env?: Record<string, string>;
  /** The whole environment instead of an addition to ours. */
  bareEnv?: Record<string, string>;
  cwd?: string;
  /** File that takes standard output and standard error, appended. Without it both are pipes. */
  logFile?: string;
  /** Standard input: "pipe", or nothing. */
  stdin?: "pipe" | "ignore";
}

/** Starts a command by argv and hands back its process. */
export function spawn(argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const [file = "", ...args] = argv;
  const log = options.logFile === undefined ? undefined : openSync(options.logFile, "a");
  try {
    const child = nodeSpawn(file, args, {
      env: options.bareEnv ?? { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      stdio: [options.stdin ?? "ignore", log ?? "pipe", log ?? "pipe"],
    });
    child.on("error", () => {}); // seen by the waiter as a process without a pid
    return child;
  } finally {
    if (log !== undefined) closeSync(log);
  }
}

/** When a process started, in the kernel's ticks since boot: with the pid it names one process for good. Undefined when it is gone. */
export function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the name in brackets and may hold anything, so fields are counted from the last bracket.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Kills processes by id (each only while it is the one that started at `startTime`) and waits until they are gone. */
export async function killAll(victims: readonly { pid: number; startTime: string }[]): Promise<void> {
  const living = () => victims.filter((v) => startTimeOf(v.pid) === v.startTime);
  for (const { pid } of living()) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // gone in between
    }
  }
  await poll(() => living().length === 0, { what: "killed processes to end", timeoutMs: 10_000 });
}

/** Ends one child: by `signal` first, by SIGKILL when it does not listen, and waits for its end. */
export async function stopChild(
  child: ChildProcess,
  signal: NodeJS.Signals = "SIGTERM",
  graceMs = 5000,
): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
  await ended;
  clearTimeout(timer);
}
