import { createHash } from "node:crypto";
import { closeSync, createReadStream, fsyncSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { ReleaseFile } from "../../shared/protocol/release.ts";
import type { Endpoint } from "../link/endpoints.ts";
import { Requests } from "../link/requests.ts";
import { sentence } from "../log.ts";
import { TaskError } from "../tasks/types.ts";

/** Tries that brought nothing before it gives up; one that brought bytes begins the count anew. */
const MOST_TRIES = 5;
const IDLE_MS = 20_000;
const BACKOFF_MS = { first: 500, most: 8000 };

export interface FetchOptions {
  /** The way to the control plane, asked anew at each try: the link may have moved to another. */
  way(): Endpoint;
  path: string;
  file: ReleaseFile;
  target: string;
  signal: AbortSignal;
  /** Tests don't wait. */
  backoffMs?: number;
}

/**
 * Fetches a file of a release: goes on where a cut off download ended, takes no byte more than the manifest says, and
 * checks the SHA-256 of what lies on the disk. Durable when this resolves; after a failure nothing is left.
 * Throws TaskError: `download_failed`, `wrong_file`, `no_space`.
 */
export async function fetchBundle(options: FetchOptions): Promise<void> {
  const { file, target } = options;
  rmSync(target, { force: true });
  const fd = openSync(target, "wx", 0o600);
  let whole = false;
  try {
    await fill(fd, options);
    fsyncSync(fd);
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(target)) hash.update(chunk as Buffer);
    if (hash.digest("hex") !== file.sha256)
      throw new TaskError("wrong_file", `${file.name} is not what the release key signed (SHA-256 differs).`);
    whole = true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOSPC")
      throw new TaskError("no_space", `The disk was full while ${file.name} was fetched.`);
    throw error;
  } finally {
    closeSync(fd);
    if (!whole) rmSync(target, { force: true });
  }
}

async function fill(fd: number, options: FetchOptions): Promise<void> {
  const { file, signal } = options;
  let have = 0;
  let why = "";
  for (let left = MOST_TRIES; left > 0; left--) {
    const before = have;
    try {
      have = await once(fd, have, options);
      why = `the connection ended after ${have} of ${file.size} bytes`;
    } catch (error) {
      if (error instanceof TaskError || (error as NodeJS.ErrnoException).code === "ENOSPC") throw error;
      if (error instanceof Partly) have = error.have;
      why = sentence(error);
    }
    // However the connection ended: the hash says whether these are the bytes.
    if (have === file.size) return;
    if (signal.aborted) break;
    if (have > before) left = MOST_TRIES;
    const pause = options.backoffMs ?? Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** (MOST_TRIES - left));
    await delay(pause * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => {});
  }
  throw new TaskError("download_failed", `${file.name} could not be fetched: ${why}`);
}

/** A try that failed after it brought bytes. */
class Partly extends Error {
  readonly have: number;
  constructor(have: number, cause: unknown) {
    super(sentence(cause));
    this.have = have;
  }
}

/** One request. Answers how many bytes the file has then. */
async function once(fd: number, from: number, { way, path, file, signal }: FetchOptions): Promise<number> {
  const idle = new AbortController();
  const timer = setTimeout(() => idle.abort(new Error(`nothing came for ${IDLE_MS / 1000} s`)), IDLE_MS);
  const requests = new Requests(way);
  let have = from;
  try {
    const response = await requests.send(path, {
      headers: from > 0 ? { range: `bytes=${from}-` } : {},
      signal: AbortSignal.any([signal, idle.signal]),
    });
    const { statusCode: status = 0 } = response;
    if (status < 200 || status > 299) {
      const detail = `The control plane answered ${status} for ${file.name}.`;
      if (status < 500 && status !== 429) throw new TaskError("download_failed", detail);
      throw new Error(detail);
    }
    // Whole, although a part was asked for.
    if (status !== 206) {
      ftruncateSync(fd);
      have = 0;
    }
    for await (const chunk of response as AsyncIterable<Buffer>) {
      timer.refresh();
      if (have + chunk.length > file.size)
        throw new TaskError("wrong_file", `${file.name} is larger than the ${file.size} bytes that were signed.`);
      for (let done = 0; done < chunk.length; ) done += writeSync(fd, chunk, done, chunk.length - done, have + done);
      have += chunk.length;
    }
    return have;
  } catch (error) {
    if (error instanceof TaskError || (error as NodeJS.ErrnoException).code === "ENOSPC") throw error;
    throw new Partly(have, error);
  } finally {
    clearTimeout(timer);
    requests.close();
  }
}
