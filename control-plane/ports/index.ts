import type { LibSQLDatabase } from "drizzle-orm/libsql";
import type { Id } from "../../shared/ids.ts";
import type { ReleaseFile, ReleaseManifest } from "../../shared/protocol/release.ts";
import type { TaskOutcome, TaskRequest } from "../../shared/protocol/tasks.ts";
import type * as schema from "../db/schema/index.ts";

/**
 * What the rules need from outside. Every clock, random byte and outside system comes in here, so that the same rules
 * run on Node, in workerd and in a test on a virtual clock. Implementations are in adapters/<port>/<name>.ts.
 */

export type Db = Omit<LibSQLDatabase<typeof schema>, "transaction" | "batch" | "run" | "$client">;

export interface Database {
  /** For reads outside a transaction. Never write through it. */
  readonly read: Db;
  /**
   * Runs `fn` in one write transaction: commits when it returns, rolls back when it throws. Transactions of one process
   * run one after another; never await the network inside.
   */
  write<T>(fn: (tx: Db) => Promise<T>): Promise<T>;
  /** Answers when the database does; rejects otherwise. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export interface Clock {
  /** UTC milliseconds. */
  now(): number;
}

/** Runs `fn` after so many ms, with 0 once what the event loop has before it now is dealt with; answers how to call it off. */
export type Delay = (ms: number, fn: () => void) => () => void;

export interface Random {
  bytes(n: number): Uint8Array<ArrayBuffer>;
}

export interface Log {
  info(event: string, fields?: Record<string, unknown>): void;
  warn(event: string, fields?: Record<string, unknown>): void;
  error(event: string, fields?: Record<string, unknown>): void;
}

export interface Metrics {
  /** Adds to a counter. */
  count(name: MetricName, labels?: Record<string, string>, by?: number): void;
  /** Records a duration in milliseconds. */
  time(name: MetricName, ms: number, labels?: Record<string, string>): void;
  /** The Prometheus text exposition, or undefined where this process has none. */
  render(): Promise<{ contentType: string; text: string } | undefined>;
}
export type MetricName =
  | "http_requests"
  | "http_request_ms"
  | "jobs_run"
  | "job_ms"
  | "link_frames"
  | "link_frames_refused"
  | "path_rounds_lost"
  | "links_opened"
  | "links_closed"
  | "push_to_ack_ms"
  | "ports_allocated"
  | "drift_repaired";

/** Memory-hard hash of a password; parameters are stored with it, so they can be raised later. */
export interface Passwords {
  hash(password: string): Promise<string>;
  /** Constant work for a given stored hash. False for a wrong password, throws for a hash it does not know. */
  verify(password: string, stored: string): Promise<boolean>;
}

/** The control plane's signing key: states and tasks carry its signature, agents pin its public half by key id. */
export interface Signer {
  readonly keyId: string;
  /** Ed25519, 32 bytes in base 64. */
  readonly publicKey: string;
  /** 64 bytes in base 64. */
  sign(bytes: Uint8Array<ArrayBuffer>): Promise<string>;
  /** SHA-256 of a text in UTF-8, lower-case hex: what a signed state is known by. */
  sha256(text: string): Promise<string>;
}

/** That host at that revision; with `items`, only a failure of one of those counts as not applied. */
export type RevisionTarget = { hostId: Id<"hst">; rev: number; items?: readonly string[] };

/** `clockOffsetMs` is the host's clock less ours, measured over the link; undefined when the link did not tell in time. */
export type TaskEvent =
  | { type: "event"; seq: number; data: unknown }
  | { type: "end"; outcome: TaskOutcome; clockOffsetMs: number | undefined };

/** Reaches hosts. Carries wake-ups only: losing one costs seconds, never state. */
export interface Fleet {
  /** These hosts' desired state changed and is committed. */
  wake(hostIds: readonly Id<"hst">[]): void;
  /** Waits until each host has verified that revision or a later one, at most so long; says which have. */
  waitApplied(targets: readonly RevisionTarget[], timeoutMs: number): Promise<boolean[]>;
  /** True when a session of that host is joined in this process and answering. */
  isLinked(hostId: Id<"hst">): boolean;
  /** Tasks of these hosts were written or cancelled: whoever holds their links looks. */
  wakeTasks(hostIds: readonly Id<"hst">[]): void;
  /**
   * Runs a task on a host, whichever process it is linked to, and yields its events, the last of type "end": always one,
   * soon after the deadline at the latest. Ending the iteration early, or the signal, cancels the task on the host. All
   * tasks of one `subject` can be cancelled together (`cancelTasks`).
   */
  runTask(
    hostId: Id<"hst">,
    task: TaskRequest,
    options: { deadlineAt: number; signal?: AbortSignal; subject?: string },
  ): AsyncIterable<TaskEvent>;
}

/** What processes tell each other. Each message is a hint: whoever misses it finds the same in the database, seconds later. */
export type BusMessage =
  /** These hosts' desired state changed. */
  | { t: "wake"; hostIds: Id<"hst">[] }
  /** A host verified a revision, but for these items. */
  | { t: "applied"; hostId: Id<"hst">; rev: number; failed: string[] }
  /** A host joined here with this epoch: an older session elsewhere is over. */
  | { t: "joined"; hostId: Id<"hst">; epoch: number }
  /** These hosts have tasks to be sent, or cancelled. */
  | { t: "tasks"; hostIds: Id<"hst">[] }
  /** An event of a task, for the process that asked. */
  | { t: "task.event"; id: Id<"tsk">; seq: number; data: unknown }
  /** A task's outcome is in its row. */
  | { t: "task.end"; id: Id<"tsk"> };

/** Carries wake-ups between the processes of one control plane. */
export interface Bus {
  /** Tells every other process; lost when the bus is away. */
  publish(message: BusMessage): void;
  subscribe(handler: (message: BusMessage) => void): void;
  close(): Promise<void>;
}

/** Wakes whoever runs jobs in this profile. */
export interface JobBell {
  /** A job due at that instant was committed. */
  ring(runAt: number): void;
}

/**
 * Where exits and their addresses come from. Every call is idempotent by line: asked again after a lost answer, it
 * finds what it made before. `wait` means not yet, ask again later.
 */
export interface Cloud {
  /** Writes the exit into the line's row, and raises that host's desired revision with it: its state now holds the line. */
  takeExit(line: CloudLine): Promise<{ hostId: Id<"hst"> } | "wait">;
  getAddress(line: CloudLine & { hostId: Id<"hst"> }): Promise<{ address: string } | "wait">;
  bindAddress(line: CloudLine & { hostId: Id<"hst">; address: string }): Promise<"bound" | "wait">;
}
export type CloudLine = { lineId: Id<"lin">; regionId: string };

/** Files of captures. */
export interface CaptureStore {
  /** Bytes stored so far of the raw upload; 0 when there is none. */
  rawSize(captureId: Id<"cap">): Promise<number>;
  /** Appends at exactly `offset`; answers the new size. Throws `offset_mismatch` when the stored size is another. */
  append(captureId: Id<"cap">, offset: number, chunk: Uint8Array): Promise<number>;
  readRaw(captureId: Id<"cap">): AsyncIterable<Uint8Array>;
  /** Writes the finished file whole (or not at all), drops the raw upload, answers size and SHA-256. */
  finish(captureId: Id<"cap">, file: AsyncIterable<Uint8Array>): Promise<{ size: number; sha256: string }>;
  open(captureId: Id<"cap">): Promise<ReadableStream<Uint8Array>>;
  remove(captureId: Id<"cap">): Promise<void>;
}

/** A release's manifest as its text, and what the release key signed of it (base 64). */
export type SignedManifest = { manifest: string; signature: string };

/** Builds of the agent, and the Node runtimes they run on, for hosts to fetch. All public: a signature or hash is checked by the host. */
export interface Releases {
  /** What was built, the oldest first. */
  versions(): Promise<string[]>;
  /** The newest release, its runtimes among the files; undefined where none was built. */
  latest(): Promise<ReleaseManifest | undefined>;
  /** The manifest of a release as it was signed; undefined when there is no such release or it is unsigned. */
  signed(version: string): Promise<SignedManifest | undefined>;
  /** Public halves of the release keys, 32 bytes in base 64 each: hosts that are installed pin them. The private halves are not here. */
  keys(): Promise<string[]>;
  /**
   * One file of a release, its body from that byte on; undefined when there is no such release or it has no such file.
   * `from` is below the file's size.
   */
  open(
    version: string,
    name: string,
    from?: number,
  ): Promise<(ReleaseFile & { body: ReadableStream<Uint8Array> }) | undefined>;
}

/** Settings of the rules, read once by the composition root. All have defaults. */
export interface Settings {
  orderPayTimeoutMs: number;
  quoteLifetimeMs: number;
  sessionLifetimeMs: number;
  portQuarantineMs: number;
  captureKeepMs: number;
  /** Base URL customers and hosts use, without a trailing slash. */
  publicUrl: string;
  /** Origins whose pages may change things with a cookie. */
  allowedOrigins: readonly string[];
  /** DNS servers written into client configurations. */
  clientDns: readonly string[];
  /** Sign-ins per name and per address in 15 minutes. */
  signInLimit: number;
  /** What /metrics asks for; undefined leaves it open. */
  metricsToken?: string | undefined;
}

export interface Ports {
  db: Database;
  clock: Clock;
  delay: Delay;
  random: Random;
  log: Log;
  metrics: Metrics;
  passwords: Passwords;
  signer: Signer;
  fleet: Fleet;
  jobBell: JobBell;
  cloud: Cloud;
  captures: CaptureStore;
  releases: Releases;
  /** Work that goes on after the answer. It handles its own errors; the process waits for it when it drains. */
  background(work: Promise<void>): void;
  settings: Settings;
}
