import type { Exec } from "./exec.ts";
import { type Log, sentence } from "./log.ts";

/** What we tell systemd. Every method is a no-op where nobody listens. */
export interface Systemd {
  ready(): void;
  status(text: string): void;
  watchdog(): void;
  stopping(): Promise<void>;
  /** How often {@link watchdog} is due, or undefined when systemd does not watch. */
  readonly watchdogMs: number | undefined;
}

type Notify = (options: { ready?: boolean; status?: string; pid?: number }) => Promise<unknown>;

/**
 * The `systemd-notify` package does READY and STATUS; it knows no WATCHDOG and no STOPPING, so those start the same
 * program. Failures are logged once and never stop the agent.
 */
export function createSystemd(env: NodeJS.ProcessEnv, exec: Exec, log: Log): Systemd {
  const socket = env.NOTIFY_SOCKET;
  if (!socket) return { ready() {}, status() {}, watchdog() {}, async stopping() {}, watchdogMs: undefined };
  // Loaded here: a host without systemd has no use for it.
  const notify: Notify = async (options) => {
    const { default: tellSystemd } = await import("systemd-notify");
    return tellSystemd(options);
  };
  let told = false;
  const tell = async (promise: Promise<unknown>) => {
    try {
      await promise;
    } catch (error) {
      // The package rejects with strings; sentence() takes both.
      if (!told) log.warn("systemd could not be told", { why: sentence(error) });
      told = true;
    }
  };
  const say = (what: string) => tell(exec.run(["env", `NOTIFY_SOCKET=${socket}`, "systemd-notify", what]));
  const usec = Number(env.WATCHDOG_USEC);
  const watched = usec > 0 && (!env.WATCHDOG_PID || env.WATCHDOG_PID === String(process.pid));
  return {
    ready: () => void tell(notify({ ready: true })),
    status: (text) => void tell(notify({ status: text.replaceAll("\n", " ").slice(0, 200) })),
    watchdog: () => void say("WATCHDOG=1"),
    stopping: () => say("STOPPING=1"),
    // Half the limit is systemd's own advice; a third leaves room for a slow spawn.
    watchdogMs: watched ? Math.max(100, usec / 3000) : undefined,
  };
}

/** How long each loop may go without a turn before the watchdog is no longer fed. */
const LOOP_LIMIT_MS = { reconcile: 120_000, link: 30_000 } as const;

/** True while every loop turned lately. Monotonic ms. */
export function loopsAlive(now: number, at: { reconcile: number; link: number }): boolean {
  return now - at.reconcile < LOOP_LIMIT_MS.reconcile && now - at.link < LOOP_LIMIT_MS.link;
}
