import type { IncomingMessage } from "node:http";
import { json } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import type { Endpoint } from "../link/endpoints.ts";
import { type RequestOptions, Requests } from "../link/requests.ts";
import { TaskError } from "./types.ts";

const CHUNK_BYTES = 256 * 1024;
const CHUNK_MS = 200;
/** One attempt; a black hole must not eat the whole deadline. */
const ATTEMPT_MS = 15_000;
const BACKOFF_MS = { first: 200, most: 5000 };

export interface UploadOptions {
  /** The way to the control plane, asked anew at each attempt: the link may have moved to another. */
  way(): Endpoint;
  path: string;
  token: string;
  /** Aborted when there is no more time. */
  signal: AbortSignal;
}

/**
 * Sends a stream to the control plane in chunks, `PUT path?offset=N`, and resumes from what the other side says it has.
 * Holds one chunk on its way and one gathering; `write` waits when both are full.
 */
export class Upload {
  readonly #options: UploadOptions;
  readonly #requests: Requests;
  readonly #failed = new AbortController();
  readonly #ended = new AbortController();
  /** No more time, or no more use. */
  readonly #signal: AbortSignal;
  #gathering: Buffer[] = [];
  #gathered = 0;
  #flight: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Bytes the control plane has said it holds. */
  stored = 0;

  constructor(options: UploadOptions) {
    this.#options = options;
    this.#requests = new Requests(() => options.way());
    this.#signal = AbortSignal.any([options.signal, this.#ended.signal]);
  }

  /** Aborted, with the error as its reason, as soon as the upload can't go on. */
  get failed(): AbortSignal {
    return this.#failed.signal;
  }

  /** Takes bytes. Throws TaskError once the upload has failed or was ended. */
  async write(bytes: Buffer): Promise<void> {
    this.#ended.signal.throwIfAborted();
    this.#gathering.push(bytes);
    this.#gathered += bytes.length;
    if (this.#gathered < CHUNK_BYTES) {
      this.#timer ??= setTimeout(() => this.#launch(), CHUNK_MS);
      return;
    }
    await this.#flight;
    this.#failed.signal.throwIfAborted();
    this.#launch();
  }

  /** Sends what is left and waits for it. Resolves with the size the control plane holds. */
  async finish(): Promise<number> {
    while (this.#flight || this.#gathered > 0) {
      this.#launch();
      await this.#flight;
      this.#failed.signal.throwIfAborted();
    }
    this.#end("the upload is complete");
    return this.stored;
  }

  /** Forgets what is gathered and what is on its way; nothing further is sent. */
  abandon(): void {
    this.#end("the upload was given up");
  }

  #end(why: string): void {
    this.#ended.abort(new TaskError("uplink_cut", why));
    this.#requests.close();
    clearTimeout(this.#timer);
    this.#gathering = [];
    this.#gathered = 0;
  }

  #launch(): void {
    if (this.#flight || this.#gathered === 0 || this.#failed.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const chunk = Buffer.concat(this.#gathering, this.#gathered);
    this.#gathering = [];
    this.#gathered = 0;
    this.#flight = this.#deliver(chunk)
      .catch((error: unknown) => this.#failed.abort(error))
      .finally(() => {
        this.#flight = undefined;
        // What came in meanwhile must not wait for a further byte that may never come.
        if (this.#gathered > 0) this.#timer ??= setTimeout(() => this.#launch(), CHUNK_MS);
      });
  }

  /** Until the other side has the whole chunk, or the time is up, or it refuses for good. */
  async #deliver(chunk: Buffer): Promise<void> {
    const start = this.stored;
    const end = start + chunk.length;
    let pause = BACKOFF_MS.first;
    let inStep = true;
    while (this.stored < end) {
      // After anything but a plain answer the other side may hold more than it told us: ask before sending on.
      const sent: boolean = inStep;
      const size: number | undefined = sent ? await this.#put(chunk.subarray(this.stored - start)) : await this.#ask();
      if (size !== undefined && (size < start || size > end)) {
        const what = `the control plane holds ${size} bytes where ${start} to ${end} were sent`;
        throw new TaskError("uplink_cut", what);
      }
      inStep = size !== undefined && !(sent && size === this.stored);
      if (size !== undefined && size > this.stored) pause = BACKOFF_MS.first;
      this.stored = size ?? this.stored;
      if (!inStep) {
        await this.#wait(pause * (0.5 + Math.random() / 2));
        pause = Math.min(pause * 2, BACKOFF_MS.most);
      }
    }
  }

  /** The size stored after this chunk, or undefined when that is not known. */
  async #put(chunk: Buffer): Promise<number | undefined> {
    const response = await this.#request(`?offset=${this.stored}`, {
      method: "PUT",
      headers: { "content-type": "application/octet-stream" },
      body: chunk,
    });
    if (!response) return undefined;
    const answer = (await json(response).catch(() => undefined)) as { size?: unknown } | undefined;
    return asSize(answer?.size);
  }

  /** The size stored, or undefined when there is no telling now. */
  async #ask(): Promise<number | undefined> {
    const response = await this.#request("", { method: "HEAD" });
    response?.resume();
    const header = String(response?.headers["upload-offset"] ?? "");
    return /^\d+$/.test(header) ? asSize(Number(header)) : undefined;
  }

  /** Undefined for what may pass: no connection, overload, a conflict of offsets. Throws TaskError for a refusal. */
  async #request(query: string, init: Omit<RequestOptions, "signal">): Promise<IncomingMessage | undefined> {
    const { path, token } = this.#options;
    this.#assertTime();
    let response: IncomingMessage;
    try {
      response = await this.#requests.send(`${path}${query}`, {
        ...init,
        headers: { ...init.headers, authorization: `Bearer ${token}` },
        signal: AbortSignal.any([this.#signal, AbortSignal.timeout(ATTEMPT_MS)]),
      });
    } catch {
      this.#assertTime();
      return undefined;
    }
    const { statusCode: status = 0 } = response;
    if (status >= 200 && status < 300) return response;
    response.resume();
    if (status === 409 || status === 408 || status === 429 || status >= 500) return undefined;
    throw new TaskError("upload_refused", `the control plane refused the upload with ${status}`);
  }

  async #wait(ms: number): Promise<void> {
    await delay(ms, undefined, { signal: this.#signal }).catch(() => {});
    this.#assertTime();
  }

  #assertTime(): void {
    if (this.#signal.aborted) {
      throw new TaskError("uplink_cut", `time was up with ${this.stored} bytes stored and more on hand`);
    }
  }
}

function asSize(value: unknown): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}
