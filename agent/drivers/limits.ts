import { totalmem } from "node:os";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Exec } from "../exec.ts";
import type { Log } from "../log.ts";
import { type Driver, ORDER, type Plan, type Step } from "./driver.ts";
import { readSetting } from "./nft.ts";

/** Wanted kernel settings: at least `atLeast`, or exactly `exactly`. */
export type Limit = { atLeast: number } | { exactly: number };

const MIB = 1024 * 1024;
const within = (least: number, value: number, most: number) => Math.min(most, Math.max(least, Math.floor(value)));

/**
 * What a host that carries lines should have, by its memory. Limits are only ever raised: a host's owner may have good
 * reasons for more.
 *
 * - Conntrack: 320 bytes an entry; a full table may take a 32nd of memory, between 65,536 and 2,097,152 entries.
 * - A UDP flow of a client that keeps alive each 25 s must outlive a lost keepalive, so 60 s before the first answer
 *   and 180 s after it.
 * - Counting per flow is what bytes per relay are made of.
 * - Socket buffers: a burst of 10 ms at 1 Gbit/s is 1.25 MB, so 1 MiB a socket at least and 8 MiB where memory abounds.
 *   Only socat's and the tunnel's sockets have them; what nftables relays waits in no socket.
 */
export function limitsFor(memoryBytes: number): Record<string, Limit> {
  const buffer = within(MIB, memoryBytes / 1024, 8 * MIB);
  return {
    "net.netfilter.nf_conntrack_max": { atLeast: within(65_536, memoryBytes / 32 / 320, 2_097_152) },
    "net.netfilter.nf_conntrack_udp_timeout": { atLeast: 60 },
    "net.netfilter.nf_conntrack_udp_timeout_stream": { atLeast: 180 },
    "net.netfilter.nf_conntrack_acct": { exactly: 1 },
    "net.core.rmem_max": { atLeast: buffer },
    "net.core.wmem_max": { atLeast: buffer },
  };
}

export type LimitStep = Step & { kind: string; value: number };

/**
 * Sizes the kernel's tables and buffers. Some settings belong to the whole machine and are read-only in a network
 * namespace or container (conntrack's maximum, buffer limits): what the kernel does not take is said once and left.
 */
export class LimitsDriver implements Driver<Map<string, number>, LimitStep> {
  readonly name = "limits";
  readonly types = [] as const;
  readonly concern = (items: readonly StateItem[]) => items.length > 0;
  readonly #exec: Exec;
  readonly #log: Log;
  readonly #limits: Record<string, Limit>;
  readonly #notOurs = new Set<string>();

  constructor(exec: Exec, log: Log, limits = limitsFor(totalmem())) {
    this.#exec = exec;
    this.#log = log;
    this.#limits = limits;
  }

  async observe(items: readonly StateItem[]): Promise<Map<string, number>> {
    const names = Object.keys(this.#limits).filter((name) => !this.#notOurs.has(name));
    return items.length === 0 ? new Map() : this.#read(names);
  }

  plan(seen: Map<string, number>): Plan<LimitStep> {
    const steps = [...seen].flatMap(([name, value]): LimitStep[] => {
      const limit = this.#limits[name];
      const want = limit && ("exactly" in limit ? limit.exactly : Math.max(limit.atLeast, value));
      if (want === undefined || want === value || this.#notOurs.has(name)) return [];
      const what = `${name} is ${value}, should be ${want}`;
      return [{ items: [], what, cause: "differs", order: ORDER.guard - 1, kind: name, value: want }];
    });
    return { steps, refused: [] };
  }

  async apply({ kind: name, value }: LimitStep): Promise<void> {
    // sysctl's exit status says nothing of a value the kernel did not take.
    await this.#exec.run(["sysctl", "-q", "-w", `${name}=${value}`], { okCodes: [0, 1, 255] });
    if ((await this.#read([name])).get(name) === value) return;
    this.#notOurs.add(name);
    this.#log.warn("a limit of the kernel is not ours to set, and stays as it is", { name, wanted: value });
  }

  /** Those that exist here. */
  async #read(names: readonly string[]): Promise<Map<string, number>> {
    const values = await Promise.all(names.map((name) => readSetting(this.#exec, name)));
    return new Map(names.flatMap((name, i) => (values[i] === undefined ? [] : [[name, values[i]] as const])));
  }
}
