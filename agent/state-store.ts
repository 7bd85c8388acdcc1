import { rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { idSchema } from "../shared/ids.ts";
import { type RawItem, rawItemSchema, readItems } from "../shared/protocol/desired-state.ts";
import { hostRoleSchema } from "../shared/protocol/enrolment.ts";
import { key32Schema, sha256Schema } from "../shared/protocol/values.ts";
import { makePrivateDir, parseJson, type ReadResult, readJson, writeDurable } from "./durable-file.ts";
import { type Keys, keysSchema, sha256OfCanonical } from "./keys.ts";
import { type Log, sentence } from "./log.ts";
import { type Traffic, trafficSchema } from "./traffic.ts";
import { tunnelCountsSchema } from "./tunnel-counts.ts";

/** Which host we are, and whose commands we take. */
const enrolmentSchema = z.object({
  hostId: idSchema("hst"),
  role: hostRoleSchema,
  controlPlaneKey: z.object({ keyId: z.string().min(1).max(64), publicKey: key32Schema }),
});
export type Enrolment = z.infer<typeof enrolmentSchema>;

const rev = z.number().int().nonnegative();
const stateSchema = z.object({ rev, sha256: sha256Schema, items: z.array(rawItemSchema) });
export type KeptState = { rev: number; sha256: string; items: RawItem[] };

const revisionSchema = z.object({ rev, sha256: sha256Schema });
const epochSchema = z.object({ epoch: z.number().int().nonnegative() });
const fingerprintsSchema = z.record(z.string(), z.string());
const interfacesSchema = z.array(z.string());

/**
 * The state directory. Every write is durable and whole; a file that can't be understood is reported and treated as
 * not there, so that a bad sector costs a resync and not the data path.
 *
 * A disk that takes no writes must not stop the data path either: what the running agent notes is then kept in memory,
 * where reads find it, and written by {@link retryUnsaved} once the disk takes it. A restart before that goes on from the last
 * state that is on disk. Only what makes the host itself (keys, enrolment) throws.
 */
export class StateStore {
  readonly dir: string;
  readonly #log: Log;
  /** Newest content of files that the disk did not take. */
  readonly #unsaved = new Map<string, string>();
  /** Told when the disk stops taking writes (with the reason), and when it has taken all that was kept back (with null). */
  onTrouble: (why: string | null) => void = () => {};

  constructor(dir: string, log: Log) {
    this.dir = dir;
    this.#log = log;
    makePrivateDir(dir);
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  #read<S extends z.ZodType>(name: string, schema: S): z.infer<S> | null {
    const unsaved = this.#unsaved.get(name);
    return this.#take(name, unsaved === undefined ? readJson(this.path(name), schema) : parseJson(unsaved, schema));
  }

  #take<T>(name: string, result: ReadResult<T>): T | null {
    if (result.kind === "ok") return result.value;
    if (result.kind === "corrupt")
      this.#log.error("a file of the state directory can't be used and is treated as missing", {
        file: this.path(name),
        why: result.why,
      });
    return null;
  }

  #write(name: string, value: unknown): void {
    writeDurable(this.path(name), `${JSON.stringify(value)}\n`);
  }

  /** Writes, or keeps in memory what can't be written. */
  #keep(name: string, value: unknown): void {
    const worked = this.#unsaved.size === 0;
    const text = `${JSON.stringify(value)}\n`;
    try {
      writeDurable(this.path(name), text);
      this.#unsaved.delete(name);
    } catch (error) {
      this.#unsaved.set(name, text);
      if (worked) this.#trouble(`${name} can't be written: ${sentence(error)}`);
    }
    if (!worked && this.#unsaved.size === 0) this.#trouble(null);
  }

  #trouble(why: string | null): void {
    if (why === null) this.#log.info("the state directory takes writes again", { dir: this.dir });
    else this.#log.error("the state directory takes no writes; going on from memory", { dir: this.dir, why });
    this.onTrouble(why);
  }

  /** Tries again to write what the disk did not take. */
  retryUnsaved(): void {
    for (const [name, text] of [...this.#unsaved]) this.#keep(name, JSON.parse(text));
  }

  keys(): Keys | null {
    return this.#read("keys.json", keysSchema);
  }

  /** Also writes the WireGuard key alone, in the form `wg set … private-key FILE` reads. */
  saveKeys(keys: Keys): void {
    this.#write("keys.json", keys);
    if (keys.wireguard) writeDurable(this.wireguardKeyFile, `${keys.wireguard.privateKey}\n`);
  }

  /** Keys shown to a control plane whose answer has not come yet; the next try shows the same. */
  pendingKeys(): Keys | null {
    return this.#read("keys.pending.json", keysSchema);
  }

  savePendingKeys(keys: Keys): void {
    this.#write("keys.pending.json", keys);
  }

  dropPendingKeys(): void {
    rmSync(this.path("keys.pending.json"), { force: true });
  }

  get wireguardKeyFile(): string {
    return this.path("wireguard.key");
  }

  enrolment(): Enrolment | null {
    return this.#read("enrolment.json", enrolmentSchema);
  }

  saveEnrolment(enrolment: Enrolment): void {
    this.#write("enrolment.json", enrolment);
  }

  /** Another host from now on: what was accepted, applied and used as the old one counts no more. */
  forgetHost(): void {
    for (const name of ["state.json", "applied.json", "epoch.json"]) {
      this.#unsaved.delete(name);
      rmSync(this.path(name), { force: true });
    }
  }

  /** The last state accepted, as it came, checked against its own hash and readable for this agent. */
  state(): KeptState | null {
    const kept = this.#read("state.json", stateSchema);
    if (!kept) return null;
    const read = readItems(kept.items);
    const bad = "bad" in read ? read.bad : undefined;
    const why = sha256OfCanonical(kept.items) === kept.sha256 ? bad : "its hash does not match its items";
    return why === undefined ? kept : this.#take("state.json", { kind: "corrupt", why });
  }

  saveState(state: KeptState): void {
    this.#keep("state.json", { rev: state.rev, sha256: state.sha256, items: state.items });
  }

  /** The last revision that was applied and verified in every item. */
  applied(): { rev: number; sha256: string } | null {
    return this.#read("applied.json", revisionSchema);
  }

  saveApplied(applied: { rev: number; sha256: string }): void {
    this.#keep("applied.json", { rev: applied.rev, sha256: applied.sha256 });
  }

  epoch(): number {
    return this.#read("epoch.json", epochSchema)?.epoch ?? 0;
  }

  saveEpoch(epoch: number): void {
    this.#keep("epoch.json", { epoch });
  }

  /** What a table of ours looked like right after we last loaded it; see drivers/nft.ts. */
  fingerprint(table: string): string | null {
    return this.#read("fingerprints.json", fingerprintsSchema)?.[table] ?? null;
  }

  saveFingerprint(table: string, fingerprint: string): void {
    const all = this.#read("fingerprints.json", fingerprintsSchema) ?? {};
    this.#keep("fingerprints.json", { ...all, [table]: fingerprint });
  }

  traffic(): Traffic | null {
    return this.#read("traffic.json", trafficSchema);
  }

  saveTraffic(traffic: Traffic): void {
    this.#keep("traffic.json", traffic);
  }

  tunnelCounts(): z.infer<typeof tunnelCountsSchema> | null {
    return this.#read("tunnel-counts.json", tunnelCountsSchema);
  }

  saveTunnelCounts(lives: Readonly<z.infer<typeof tunnelCountsSchema>>): void {
    this.#keep("tunnel-counts.json", lives);
  }

  /** Names of the network interfaces this agent made. Nothing else is ever removed. */
  interfaces(): string[] {
    return this.#read("interfaces.json", interfacesSchema) ?? [];
  }

  saveInterfaces(names: readonly string[]): void {
    this.#keep("interfaces.json", [...new Set(names)].sort());
  }
}
