import { closeSync, existsSync, fsyncSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { makePrivateDir, writeDurable } from "../durable-file.ts";

/** Where the installer puts the agent; only root outside of the agent's restrictions writes there. */
export const OPT = "/opt/trunkline";
/** The public halves of the release keys, pinned by the installation. */
export const RELEASE_KEYS = "/etc/trunkline/release.pub";

/**
 * What the agent asks of the gate (scripts/install/gate.sh): install the staged file and start it on trial. `asked` in UTC
 * seconds: one that lies too long is not acted on.
 */
export type UpgradeRequest = { attempt: string; version: string; sha256: string; limit: number; asked: number };
/** A version on trial, as the gate noted it. `until` in seconds of the uptime of that boot. */
export type Trial = { attempt: string; to: string; from: string; limit: number; until: number; starts: number };
/** A trial that failed, or was refused by the gate before it began. */
export type Returned = { attempt: string; to: string; from: string; reason: string; lastWords: string };

/**
 * The notes that agent and gate leave each other in `<state directory>/upgrade`: `key=value` a line, which a small shell
 * script can read and write.
 */
export class UpgradeFiles {
  readonly dir: string;

  constructor(stateDir: string) {
    this.dir = join(stateDir, "upgrade");
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  trial(): Trial | undefined {
    const note = this.#read("trial");
    if (note === undefined) return undefined;
    const { attempt = "", to = "", from = "" } = note;
    const [limit, until, starts] = [note.limit, note.until, note.starts].map(Number) as [number, number, number];
    return { attempt, to, from, limit, until, starts };
  }

  returned(): Returned | undefined {
    const note = this.#read("returned");
    if (note === undefined) return undefined;
    const { attempt = "", to = "", from = "", reason = "" } = note;
    const words = existsSync(this.path("lastwords")) ? readFileSync(this.path("lastwords"), "utf8") : "";
    return { attempt, to, from, reason: reason.slice(0, 500), lastWords: words.trim().slice(-4000) };
  }

  request(): { attempt: string } | undefined {
    const note = this.#read("request");
    return note && { attempt: note.attempt ?? "" };
  }

  /** Asks the gate. It acts before the agent's next start. */
  writeRequest({ attempt, version, sha256, limit, asked }: UpgradeRequest): void {
    makePrivateDir(this.dir);
    const lines = Object.entries({ attempt, version, sha256, limit, asked }).map(([key, value]) => `${key}=${value}\n`);
    writeDurable(this.path("request"), lines.join(""));
  }

  /** Takes the request back, and the file that it is about. */
  dropRequest(): void {
    for (const name of ["request", "staged.mjs"]) rmSync(this.path(name), { force: true });
  }

  /** The trial is over and the version on trial stays. Durable when this returns. */
  commit(): void {
    rmSync(this.path("trial"), { force: true });
    const dir = openSync(this.dir, "r");
    fsyncSync(dir);
    closeSync(dir);
    rmSync(this.path("before"), { recursive: true, force: true });
  }

  #read(name: string): Record<string, string> | undefined {
    let text: string;
    try {
      text = readFileSync(this.path(name), "utf8");
    } catch {
      return undefined;
    }
    return Object.fromEntries(
      text.split("\n").flatMap((line) => {
        const at = line.indexOf("=");
        return at > 0 ? [[line.slice(0, at), line.slice(at + 1)]] : [];
      }),
    );
  }
}
