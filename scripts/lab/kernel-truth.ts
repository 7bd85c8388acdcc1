import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { itemsOf } from "../../agent/drivers/driver.ts";
import type { Id } from "../../shared/ids.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { type Lab, ROOT } from "./lab.ts";
import type { Namespace } from "./netns.ts";
import { stopChild } from "./process.ts";
import type { Question } from "./read-database.ts";

type Said = { value: unknown; error?: string };

/**
 * The control plane's database, read past the control plane, by a process within its host's mounts: SQLite opens the real path
 * of a file, which is another one out here.
 */
export class Truth {
  readonly #reader: ChildProcess;
  readonly #asked: ((said: Said) => void)[] = [];

  constructor(lab: Lab, file: string) {
    const argv = [process.execPath, join(ROOT, "scripts/lab/read-database.ts"), file];
    this.#reader = lab.cp.ns.spawn(argv, { cwd: ROOT, stdin: "pipe" });
    const { stdout, stderr } = this.#reader;
    if (stdout === null || stderr === null) throw new Error("no pipes from the reader of the database");
    createInterface({ input: stdout }).on("line", (line) => this.#asked.shift()?.(JSON.parse(line)));
    let last = "";
    stderr.setEncoding("utf8").on("data", (text: string) => {
      last = (last + text).slice(-2000);
    });
    this.#reader.once("close", () => {
      for (const tell of this.#asked.splice(0)) tell({ value: undefined, error: `the reader ended: ${last}` });
    });
  }

  /** What the database says a host should hold. */
  desired(hostId: string): Promise<StateItem[]> {
    return this.#ask({ desired: hostId as Id<"hst"> }) as Promise<StateItem[]>;
  }

  /** The number that a query like `SELECT COUNT(*) AS n` gives as `n`. */
  async number(sql: string): Promise<number> {
    const [row] = (await this.#ask({ sql })) as { n: number }[];
    return row?.n ?? Number.NaN;
  }

  async close(): Promise<void> {
    await stopChild(this.#reader, "SIGKILL");
  }

  async #ask(question: Question): Promise<unknown> {
    const { value, error } = await new Promise<Said>((resolve) => {
      this.#asked.push(resolve);
      this.#reader.stdin?.write(`${JSON.stringify(question)}\n`);
    });
    if (error !== undefined) throw new Error(error);
    return value;
  }
}

/** What a host's kernel should hold, in the words of {@link heldBy}. */
export function wantedOf(items: readonly StateItem[], now: number): string[] {
  const relays = itemsOf(items, "relay").map(({ listen, to }) =>
    listen.from === listen.to && to.port !== "same"
      ? `port ${listen.from} to ${to.address}:${to.port}`
      : `ports ${listen.from}-${listen.to} to ${to.address}`,
  );
  const peers = itemsOf(items, "wireguard").flatMap((item) =>
    item.peers
      .filter(({ notAfter }) => notAfter === null || notAfter > now)
      .map((peer) => `peer ${peer.publicKey} at ${peer.allowedIps.join()} of ${item.interface}:${item.listenPort}`),
  );
  const allowed = itemsOf(items, "whitelist").flatMap((item) =>
    item.cidrs.map((cidr) => `${item.interface} to ${cidr}`),
  );
  return [...relays, ...peers, ...allowed].sort();
}

/** What a host's kernel really holds, read by the tools and not by the agent's own drivers. */
export async function heldBy(ns: Namespace): Promise<string[]> {
  const { stdout } = await ns.exec(["nft", "list", "ruleset"]);
  const element = /(\d+) : ([\d.]+) \. (\d+)/g;
  const relays = [...stdout.matchAll(element)].map(([, port, address, to]) => `port ${port} to ${address}:${to}`);
  const range = /udp dport (\d+)-(\d+) ct mark set [^\n]*dnat to ([\d.]+)/g;
  const ranges = [...stdout.matchAll(range)].map(([, from, to, address]) => `ports ${from}-${to} to ${address}`);
  const sets = [...stdout.matchAll(/set wl4_(\S+) \{[^}]*?elements = \{([^}]*)\}/g)];
  const allowed = sets.flatMap(([, name, text = ""]) =>
    text.split(",").map((one) => `${name} to ${one.trim().includes("/") ? one.trim() : `${one.trim()}/32`}`),
  );
  const dump = await ns.exec(["wg", "show", "all", "dump"], { check: false });
  const rows = dump.stdout.split("\n").map((line) => line.split("\t"));
  const ports = new Map(rows.filter((row) => row.length === 5).map((row) => [row[0], row[3]]));
  const peers = rows
    .filter((row) => row.length === 9)
    .map(([name, key, , , ips]) => `peer ${key} at ${ips} of ${name}:${ports.get(name ?? "")}`);
  return [...relays, ...ranges, ...peers, ...allowed].sort();
}
