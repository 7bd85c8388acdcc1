import { closeSync, fstatSync, ftruncateSync, openSync, readSync } from "node:fs";
import { z } from "zod";
import { readJson, writeDurable } from "../durable-file.ts";

const bookSchema = z.object({
  denied: z.number(),
  /** By address: the names it was answered for. */
  names: z.record(z.string(), z.array(z.string())),
});

/** Above this the log's content goes into the book, and the log is emptied. */
const FULL_BYTES = 256 * 1024;
const MOST_OPEN = 2000;

/**
 * Which names each address was answered for, read from the resolver's own log: one line says what was asked, one that
 * an address went into the set, before the answer, and both carry the question's number. So a removed name takes its
 * own addresses with it and no others.
 */
export class ResolverBook {
  readonly #logFile: string;
  readonly #bookFile: string;
  readonly #set: string;
  readonly #names = new Map<string, Set<string>>();
  /** When an address was last answered, as seen from here: monotonic ms. */
  readonly #answeredAt = new Map<string, number>();
  readonly #questions = new Map<string, string>();
  #offset = 0;
  #rest = "";
  /** Questions for names that are not listed. */
  denied = 0;

  constructor(logFile: string, bookFile: string, set: string) {
    this.#logFile = logFile;
    this.#bookFile = bookFile;
    this.#set = set;
    const kept = readJson(bookFile, bookSchema);
    if (kept.kind !== "ok") return;
    this.denied = kept.value.denied;
    for (const [address, names] of Object.entries(kept.value.names)) this.#names.set(address, new Set(names));
  }

  /** Names of an address; none when nobody knows where it came from. */
  namesOf(address: string): ReadonlySet<string> {
    return this.#names.get(address) ?? new Set();
  }

  /** Addresses answered since `at`. */
  answeredSince(at: number): string[] {
    return [...this.#answeredAt].flatMap(([address, when]) => (when >= at ? [address] : []));
  }

  /** Forgets addresses that are neither held nor answered since `at`. */
  keepOnly(held: ReadonlySet<string>, at: number): void {
    for (const address of this.#names.keys()) {
      if (held.has(address) || (this.#answeredAt.get(address) ?? 0) >= at) continue;
      this.#names.delete(address);
      this.#answeredAt.delete(address);
    }
  }

  /** Reads what the log has grown by. */
  read(now: number): void {
    let fd: number;
    try {
      fd = openSync(this.#logFile, "r+");
    } catch {
      return; // not started yet
    }
    try {
      if (fstatSync(fd).size < this.#offset) this.#offset = 0;
      const chunk = Buffer.alloc(64 * 1024);
      for (let n = 1; n > 0; ) {
        n = readSync(fd, chunk, 0, chunk.length, this.#offset);
        this.#offset += n;
        this.#take(chunk.toString("latin1", 0, n), now);
      }
      if (this.#offset > FULL_BYTES) this.#fold(fd);
    } finally {
      closeSync(fd);
    }
  }

  #take(text: string, now: number): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(line, now);
  }

  #line(line: string, now: number): void {
    const [, number = "", what = ""] = /dnsmasq\[\d+\]: (\d+) \S+ (.*)$/.exec(line) ?? [];
    const [, name] = /^query\[[^\]]*\] (\S+) from /.exec(what) ?? [];
    if (name !== undefined) {
      this.#questions.set(number, name.toLowerCase());
      const [oldest] = this.#questions.keys();
      if (this.#questions.size > MOST_OPEN && oldest !== undefined) this.#questions.delete(oldest);
    } else if (/^config .* is (REFUSED|NXDOMAIN)/.test(what)) {
      this.denied += 1;
    } else if (what.startsWith("nftset add ")) {
      const [, set, address = ""] = / (\S+) (\S+) *$/.exec(what) ?? [];
      const asked = this.#questions.get(number);
      if (set !== this.#set || asked === undefined) return;
      const names = this.#names.get(address) ?? new Set();
      this.#names.set(address, names.add(asked));
      this.#answeredAt.set(address, now);
    }
  }

  /** The book first: a crash in between costs nothing, since reading the same lines again adds nothing. */
  #fold(fd: number): void {
    const names = Object.fromEntries([...this.#names].map(([address, set]) => [address, [...set]]));
    writeDurable(this.#bookFile, JSON.stringify({ denied: this.denied, names }));
    // A line written since would go unread; then it is tried again at the next reading.
    if (fstatSync(fd).size !== this.#offset) return;
    ftruncateSync(fd, 0);
    this.#offset = 0;
  }
}
