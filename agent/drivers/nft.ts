import type { Exec } from "../exec.ts";
import { sha256OfCanonical } from "../keys.ts";

/** Where a table's fingerprint is kept between runs of the agent. */
export interface FingerprintStore {
  fingerprint(table: string): string | null;
  saveFingerprint(table: string, fingerprint: string): void;
}

type Entry = Record<string, Record<string, unknown>>;
/** One table as `nft -j` lists it. */
export interface TableListing {
  /** Everything but the elements of the managed sets, without handles and counts. */
  shape: unknown;
  /** Elements by set or map name. */
  elements: Map<string, unknown[]>;
}

/**
 * A table of ours. What we load is text; what the kernel lists back differs in ways that depend on nft's version. So
 * the listing right after our own load is remembered, by the hash of our text: another listing later means that someone
 * edited the table, and the same one means that nothing has to be done, also after a restart of the agent.
 */
export class NftTable {
  readonly name: string;
  readonly #exec: Exec;
  readonly #store: FingerprintStore;
  /** Sets whose elements are compared by value and changed one by one; all else is in the fingerprint. */
  readonly #managed: (set: string) => boolean;
  readonly #checkFirst: boolean;

  /** @param checkFirst has nft look through each text before it is loaded (`nft -c`) */
  constructor(
    name: string,
    exec: Exec,
    store: FingerprintStore,
    managed: (set: string) => boolean,
    { checkFirst = false } = {},
  ) {
    this.name = name;
    this.#exec = exec;
    this.#store = store;
    this.#managed = managed;
    this.#checkFirst = checkFirst;
  }

  /** What the kernel holds, or null when there is no such table. */
  async list(): Promise<TableListing | null> {
    const result = await this.#exec.run(["nft", "-s", "-j", "list", "table", "ip", this.name], { okCodes: [0, 1] });
    if (result.code === 1) {
      if (result.stderr.includes("No such file or directory")) return null;
      throw new Error(`nft list table ip ${this.name}: ${result.stderr.trim().slice(0, 300)}`);
    }
    return readListing(result.stdout, this.#managed);
  }

  /** True when the listing is what our text became when it was last loaded. */
  isOurs(text: string, listing: TableListing): boolean {
    return this.#store.fingerprint(this.name) === fingerprint(text, listing);
  }

  /** Replaces the whole table in one transaction: packets see the old table or the new one, never none. */
  async replace(text: string, withElements: string): Promise<void> {
    await this.change(`table ip ${this.name}\ndelete table ip ${this.name}\n${withElements}`);
    const listing = await this.list();
    if (!listing) throw new Error(`table ip ${this.name} was loaded and is not there`);
    this.#store.saveFingerprint(this.name, fingerprint(text, listing));
  }

  /** One transaction: nothing is loaded when any part of it is wrong. */
  async change(commands: string): Promise<void> {
    if (this.#checkFirst) await this.#exec.run(["nft", "-c", "-f", "-"], { stdin: commands });
    await this.#exec.run(["nft", "-f", "-"], { stdin: commands, timeoutMs: 30_000 });
  }

  async remove(): Promise<void> {
    await this.change(`table ip ${this.name}\ndelete table ip ${this.name}\n`);
  }
}

function fingerprint(text: string, listing: TableListing): string {
  return sha256OfCanonical([text, listing.shape]);
}

/** Reads `nft -j list table`. Exported for its test. */
export function readListing(json: string, managed: (set: string) => boolean): TableListing {
  const entries = (JSON.parse(json) as { nftables: Entry[] }).nftables;
  const elements = new Map<string, unknown[]>();
  const shape: unknown[] = [];
  for (const entry of entries) {
    const [kind, body] = Object.entries(entry)[0] ?? [];
    if (kind === undefined || body === undefined || kind === "metainfo") continue;
    const { handle: _handle, ...rest } = body;
    if (kind === "counter") {
      delete rest.packets;
      delete rest.bytes;
    }
    if ((kind === "set" || kind === "map") && managed(String(rest.name))) {
      elements.set(String(rest.name), (rest.elem as unknown[] | undefined) ?? []);
      delete rest.elem;
    }
    shape.push({ [kind]: rest });
  }
  return { shape, elements };
}

/** A kernel setting by its name as sysctl has it; undefined when this kernel has none, or it is no number. */
export async function readSetting(exec: Exec, name: string): Promise<number | undefined> {
  const text = (await exec.read(`/proc/sys/${name.replaceAll(".", "/")}`))?.trim();
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** Turns on IPv4 forwarding in this network namespace, which relays and exits can't do without. */
export const forwarding = {
  async isOn(exec: Exec): Promise<boolean> {
    return (await readSetting(exec, "net.ipv4.ip_forward")) === 1;
  },
  async turnOn(exec: Exec): Promise<void> {
    await exec.run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
  },
};
