import { type SpawnOptions, spawn } from "node:child_process";
import { accessSync, constants, readFileSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { lineSplitter } from "./tasks/lines.ts";

/** A command that could not run, failed, or took too long. Names the command and what it wrote to stderr. */
export class ExecError extends Error {
  readonly argv: readonly string[];
  /** Exit status; null when it was killed or never started. */
  readonly code: number | null;
  readonly stderr: string;
  /** What it wrote before it failed; empty when it never started. */
  readonly stdout: string;

  constructor(argv: readonly string[], code: number | null, stderr: string, why: string, stdout = "") {
    super(`${argv.slice(0, 6).join(" ").slice(0, 200)}: ${why}${stderr ? `: ${stderr.trim().slice(0, 400)}` : ""}`);
    this.name = "ExecError";
    this.argv = argv;
    this.code = code;
    this.stderr = stderr;
    this.stdout = stdout;
  }
}

export interface RunOptions {
  stdin?: string;
  timeoutMs?: number;
  /** Exit statuses that are an answer and not a failure. Default: 0 only. */
  okCodes?: readonly number[];
  /** Most bytes of output kept; more is an error, so that a huge table can't eat the host's memory. */
  maxBytes?: number;
  /** Told of each whole line of output as it comes; nothing is kept then, and `stdout` is empty. */
  onLine?: (line: string) => void;
  /** Ends it before its time, as a failure. */
  signal?: AbortSignal;
  /**
   * It starts others, which hold its output open: ended before its time, it takes them along. Only where it is so: a session
   * of its own is a group of its own to the scheduler.
   */
  parent?: boolean;
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Niceness of the programs that carry customers' packets (socat, wireguard-go) or hold them up (the resolver): whatever
 * else the host does, a capture and the agent itself included, waits for them.
 */
export const DATA_PATH_NICE = -10;

/** The only way the agent starts programs: by argv, never through a shell. */
export interface Exec {
  /** Runs to the end. Throws {@link ExecError}. */
  run(argv: readonly string[], options?: RunOptions): Promise<RunResult>;
  /**
   * Starts a program in a session of its own that outlives the agent, ahead of other work ({@link DATA_PATH_NICE}). Resolves
   * with its pid when it has started. Throws {@link ExecError} when there is no such program.
   * @param env added to its environment
   */
  detach(argv: readonly string[], env?: Record<string, string>): Promise<number>;
  /**
   * A small file as the tools would see it, such as one of /proc/net; undefined when there is none. Without a prefix it
   * costs no process, which a tool that prints the same would.
   */
  read(path: string): Promise<string | undefined>;
}

/**
 * @param prefix argv put before every command, for example `["ip", "netns", "exec", NS]` in the lab
 */
export function createExec({ prefix = [] }: { prefix?: readonly string[] } = {}): Exec {
  // LC_ALL=C: outputs are parsed. Nothing else of our environment (tokens, NOTIFY_SOCKET) reaches a tool.
  const env = { PATH: process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };

  function start(argv: readonly string[], options: SpawnOptions) {
    const [file, ...args] = [...prefix, ...argv];
    if (file === undefined) throw new TypeError("an empty argv");
    return spawn(file, args, { env, ...options, shell: false });
  }

  const exec: Exec = {
    run(
      argv,
      { stdin, timeoutMs = 15_000, okCodes = [0], maxBytes = 32 * 1024 * 1024, onLine, signal, parent = false } = {},
    ) {
      return new Promise((resolve, reject) => {
        const stdio: SpawnOptions["stdio"] = [stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"];
        const child = start(argv, { stdio, detached: parent });
        const out: Buffer[] = [];
        const err: Buffer[] = [];
        let size = 0;
        let why: string | undefined;
        const give = (reason: string) => {
          why ??= reason;
          if (parent && child.pid !== undefined) killGroup(child.pid);
          else child.kill("SIGKILL");
        };
        const timer = setTimeout(() => give(`no end after ${timeoutMs} ms`), timeoutMs);
        const abort = () => give("no longer wanted");
        if (signal?.aborted) abort();
        else signal?.addEventListener("abort", abort, { once: true });
        const settle = () => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", abort);
        };
        if (onLine) child.stdout?.setEncoding("utf8").on("data", lineSplitter(onLine));
        else
          child.stdout?.on("data", (chunk: Buffer) => {
            size += chunk.length;
            if (size <= maxBytes) out.push(chunk);
            else {
              out.length = 0;
              give(`more than ${maxBytes} bytes of output`);
            }
          });
        child.stderr?.on("data", (chunk: Buffer) => {
          if (err.length < 64) err.push(chunk);
        });
        // A program that does not read its input closes the pipe: its exit status says what happened.
        child.stdin?.on("error", () => {});
        child.stdin?.end(stdin);
        child.on("error", (error) => {
          settle();
          reject(new ExecError(argv, null, "", `could not start (${error.message})`));
        });
        child.on("close", (code) => {
          settle();
          const [stdout, stderr] = [Buffer.concat(out).toString(), Buffer.concat(err).toString()];
          if (why !== undefined) reject(new ExecError(argv, code, stderr, why, stdout));
          else if (code === null || !okCodes.includes(code))
            reject(new ExecError(argv, code, stderr, `ended with ${code}`, stdout));
          else resolve({ code, stdout, stderr });
        });
      });
    },

    detach(argv, more = {}) {
      return new Promise((resolve, reject) => {
        if (!isThere(argv[0] ?? "", env.PATH)) throw new ExecError(argv, null, "", "could not start (it is not there)");
        // `nice` becomes the program, so the pid is its own, and with it every thread that it will have; it counts from where
        // we are ourselves. Where it may not raise the priority it says so and goes on.
        const ahead = ["nice", "-n", String(DATA_PATH_NICE - getPriority()), ...argv];
        const child = start(ahead, { stdio: "ignore", detached: true, cwd: "/", env: { ...env, ...more } });
        child.on("error", (error) => reject(new ExecError(argv, null, "", `could not start (${error.message})`)));
        child.on("spawn", () => {
          child.unref();
          if (child.pid !== undefined) putAhead(child.pid);
          resolve(child.pid ?? 0);
        });
      });
    },

    async read(path) {
      if (prefix.length > 0) {
        const { code, stdout } = await exec.run(["cat", "--", path], { okCodes: [0, 1] });
        return code === 0 ? stdout : undefined;
      }
      try {
        return readFileSync(path, "utf8");
      } catch {
        return undefined;
      }
    },
  };
  return exec;
}

/** Where the kernel groups processes by session (sched(7), "The autogroup feature"), niceness counts within one: this is the group's own. */
function putAhead(leader: number): void {
  try {
    writeFileSync(`/proc/${leader}/autogroup`, String(DATA_PATH_NICE));
  } catch {
    // There are no such groups here, or we may not.
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // All of it has ended.
  }
}

/** Would a shell with this PATH find the program? */
function isThere(program: string, path: string): boolean {
  const places = program.includes("/") ? [program] : path.split(":").map((dir) => join(dir, program));
  return places.some((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
