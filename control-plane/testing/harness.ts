import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { onTestFinished } from "vitest";
import type { ErrorCode } from "../../shared/errors.ts";
import { directoryCaptures } from "../adapters/captures/directory.ts";
import { staticCloud } from "../adapters/cloud/static.ts";
import { openFileDatabase } from "../adapters/database/libsql-file.ts";
import { scryptPasswords } from "../adapters/passwords/scrypt.ts";
import { noReleases } from "../adapters/releases/none.ts";
import { webcryptoSigner } from "../adapters/signer/webcrypto.ts";
import { createApp } from "../app.ts";
import { runDueJobs } from "../jobs/run-due.ts";
import type { Database, Fleet, Ports, Releases, Settings } from "../ports/index.ts";
import { seededRandom } from "./random.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../migrations");
/** A Tuesday noon in Shanghai; every harness starts there. */
export const START = Date.UTC(2026, 2, 10, 4);
export const PUBLIC_URL = "https://trunkline.example";

/** A clock that stands still until a test moves it. */
export class TestClock {
  #now = START;
  now(): number {
    return this.#now;
  }
  advance(ms: number): void {
    this.#now += ms;
  }
}

/** Hosts that never answer; what was woken is kept. */
export class SilentFleet implements Fleet {
  readonly woken: string[] = [];
  wake(hostIds: readonly string[]): void {
    this.woken.push(...hostIds);
  }
  waitApplied: Fleet["waitApplied"] = async (targets) => targets.map(() => false);
  isLinked(): boolean {
    return false;
  }
  wakeTasks(): void {}
  // biome-ignore lint/correctness/useYield: it never has anything to yield
  async *runTask(): ReturnType<Fleet["runTask"]> {
    throw new Error("no host answers here");
  }
}

/** An HTTP answer, its body parsed when it is JSON. */
export type Answer<T = Record<string, unknown>> = {
  status: number;
  headers: Headers;
  text: string;
  body: T;
};
export type Problem = { type: string; title: string; status: number; code: ErrorCode; requestId: string };

export type RequestOptions = { headers?: Record<string, string>; rawBody?: string };

/** A control plane on a database file of its own, with a clock, random numbers and hosts that a test commands. */
export class Harness {
  readonly clock: TestClock;
  readonly ports: Ports;
  readonly app: ReturnType<typeof createApp>;
  readonly errors: string[];
  readonly close: () => Promise<void>;
  /** Write transactions begun so far: retry storms show here. */
  writes = 0;

  constructor(ports: Ports, clock: TestClock, errors: string[], close: () => Promise<void>) {
    this.ports = ports;
    this.clock = clock;
    this.errors = errors;
    this.close = close;
    const { write } = ports.db;
    ports.db.write = (fn) => {
      this.writes++;
      return write.call(ports.db, fn) as ReturnType<typeof fn>;
    };
    this.app = createApp(ports, { addressOf: (c) => c.req.header("x-test-address") ?? "192.0.2.1" });
  }

  /** One request, in process. A `body` goes as JSON. */
  async request<T = Record<string, unknown>>(
    method: string,
    path: string,
    body?: unknown,
    { headers = {}, rawBody }: RequestOptions = {},
  ): Promise<Answer<T>> {
    const json = body === undefined ? undefined : JSON.stringify(body);
    const response = await this.app.request(path, {
      method,
      headers: { ...(json === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(json === undefined && rawBody === undefined ? {} : { body: rawBody ?? json ?? "" }),
    });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json") ?? false;
    return { status: response.status, headers: response.headers, text, body: (isJson ? JSON.parse(text) : {}) as T };
  }

  /** Runs what is due until nothing is; answers how many jobs ran. */
  async runJobs(): Promise<number> {
    let total = 0;
    for (let n = -1; n !== 0; total += n) n = await runDueJobs(this.ports, 8);
    return total;
  }
}

export type HarnessOptions = {
  settings?: Partial<Settings>;
  seed?: number;
  fleet?: Fleet | ((db: Database) => Fleet);
  releases?: Releases;
  /** Where its files go; then they stay when it closes. */
  directory?: string;
};

/** A fresh harness for one test; it goes when the test ends. */
export async function makeHarness(options: HarnessOptions = {}): Promise<Harness> {
  const harness = await openHarness(options);
  onTestFinished(() => harness.close());
  return harness;
}

/** A fresh harness that the caller closes: for a file whose tests share one. */
export async function openHarness(options: HarnessOptions = {}): Promise<Harness> {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "trunkline-test-")));
  const db = await openFileDatabase(join(directory, "trunkline.db"), { migrations: MIGRATIONS });
  const clock = new TestClock();
  const random = seededRandom(options.seed ?? 1);
  const errors: string[] = [];
  const background = new Set<Promise<void>>();
  const fleet = typeof options.fleet === "function" ? options.fleet(db) : (options.fleet ?? new SilentFleet());
  const ports: Ports = {
    db,
    clock,
    // Nothing passes by itself here: a test that wants what comes later turns timers of its own.
    delay: () => () => {},
    random,
    log: {
      info() {},
      warn() {},
      error: (event, fields) => errors.push(`${event}: ${String(fields?.error ?? "")}`),
    },
    metrics: { count() {}, time() {}, render: async () => ({ contentType: "text/plain", text: "# nothing\n" }) },
    passwords: scryptPasswords(random, { N: 2, r: 1, p: 1 }),
    signer: await webcryptoSigner(Buffer.alloc(32, 7).toString("base64")),
    fleet,
    jobBell: { ring() {} },
    cloud: staticCloud({ db, clock, random }),
    captures: await directoryCaptures(join(directory, "captures")),
    releases: options.releases ?? noReleases(),
    background(work) {
      background.add(work);
      void work.finally(() => background.delete(work));
    },
    settings: {
      orderPayTimeoutMs: 900_000,
      quoteLifetimeMs: 900_000,
      sessionLifetimeMs: 30 * 86_400_000,
      portQuarantineMs: 0,
      captureKeepMs: 7 * 86_400_000,
      publicUrl: PUBLIC_URL,
      allowedOrigins: ["https://console.example"],
      clientDns: ["1.1.1.1"],
      signInLimit: 10,
      ...options.settings,
    },
  };
  return new Harness(ports, clock, errors, async () => {
    await Promise.allSettled([...background]);
    await db.close();
    if (options.directory === undefined) await rm(directory, { recursive: true, force: true });
  });
}
