import { z } from "zod";
import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { Observation } from "../shared/protocol/frames.ts";
import { key32Schema } from "../shared/protocol/values.ts";
import { itemsOf } from "./drivers/driver.ts";
import type { SeenPeer } from "./drivers/wireguard-dump.ts";

const pairSchema = z.tuple([z.number(), z.number()]);
const lifeSchema = z.object({
  /** Names this count for ever, also to the control plane: it has seen a count of this life, or it has not. */
  life: z.string(),
  tunnel: z.string(),
  /** Null: what the tunnel's whitelist refused (packets, names); otherwise what a peer moved (received, sent). */
  publicKey: key32Schema.nullable(),
  /** What the kernel's counters last said, and all they counted so far, over their resets. */
  seen: pairSchema,
  total: pairSchema,
  /** `ending`: in no item any more, but still in the kernel. */
  state: z.enum(["live", "ending", "ended"]),
  /** UTC ms. */
  endedAt: z.number().nullable(),
});
export const tunnelCountsSchema = z.array(lifeSchema);
type Life = z.infer<typeof lifeSchema>;
type Pair = [number, number];

/** Ended counts are told again in each session, so that one whose frame was lost still arrives: so many, for so long. */
const MOST_ENDED = 32;
const TELL_ENDED_MS = 30 * 86_400_000;

/**
 * What each peer moved and what each tunnel refused: counts that only grow while the kernel's begin anew, with peers
 * that are made again, tunnels that die and hosts that reboot. A peer is counted when it is looked at, and once more
 * right before it is removed. A restarted agent goes on from what it kept.
 */
export class TunnelCounts {
  #lives: Life[];
  readonly #save: (lives: readonly Life[]) => void;
  readonly #newLife: () => string;
  readonly #now: () => number;
  readonly #handshakes = new Map<string, number | null>();
  #tickets = 0;
  /** By tunnel: tickets taken until now were for readings that began before the last one that counted. */
  readonly #stale = new Map<string, number>();
  #changed = false;

  /** `newLife` makes a name no other count ever had, `now` is UTC ms. */
  constructor(
    kept: readonly Life[] | null,
    save: (lives: readonly Life[]) => void,
    newLife: () => string,
    now: () => number,
  ) {
    this.#lives = (kept ?? []).map((life) => ({ ...life }));
    this.#save = save;
    this.#newLife = newLife;
    this.#now = now;
  }

  /** Take one before reading the kernel: two readings at once may end in the wrong order, and the older then counts for nothing. */
  ticket(): number {
    return ++this.#tickets;
  }

  /** A tunnel's peers as the kernel holds them (undefined: there is no such tunnel), and the items they should be in. */
  peers(ticket: number, tunnel: string, seen: readonly SeenPeer[] | undefined, items: readonly StateItem[]): void {
    if (ticket <= (this.#stale.get(tunnel) ?? 0)) return;
    this.#stale.set(tunnel, this.#tickets);
    const wanted = keysOf(items, tunnel);
    const held = new Map((seen ?? []).map((peer) => [peer.publicKey, peer]));
    const open = new Set<string>();
    for (const life of this.#lives) {
      if (life.tunnel !== tunnel || life.publicKey === null || life.state === "ended") continue;
      const peer = held.get(life.publicKey);
      if (peer) this.#count(life, [peer.rxBytes, peer.txBytes]);
      // Not in the kernel now, so what it has when it is there again begins at nothing.
      else this.#set(life, "seen", [0, 0]);
      // Gone from the kernel and then wanted again is another connection.
      const over = !peer && (life.state === "ending" || !wanted.has(life.publicKey));
      this.#set(life, "state", over ? "ended" : wanted.has(life.publicKey) ? "live" : "ending");
      if (over) {
        life.endedAt = this.#now();
        continue;
      }
      open.add(life.publicKey);
      this.#handshakes.set(life.life, peer?.lastHandshakeAt ?? null);
    }
    for (const publicKey of wanted) {
      if (open.has(publicKey)) continue;
      const peer = held.get(publicKey);
      // One that is there and of which nothing is known: what it moved so far may have been told before our memory went.
      this.#begin(tunnel, publicKey, peer ? [peer.rxBytes, peer.txBytes] : [0, 0]);
    }
    // About to be made: from here on all that is refused is news.
    if (seen === undefined && !this.#refusedBy(tunnel)) this.#begin(tunnel, null, [0, 0]);
  }

  /** Packets and names that a tunnel's whitelist refused, as the kernel and the resolver (if it has one) count them. */
  denied(tunnel: string, packets: number, names: number | undefined): void {
    const life = this.#refusedBy(tunnel);
    if (life) this.#count(life, [packets, names ?? life.seen[1]]);
    else this.#begin(tunnel, null, [packets, names ?? 0]);
  }

  #refusedBy(tunnel: string): Life | undefined {
    return this.#lives.find((life) => life.tunnel === tunnel && life.publicKey === null);
  }

  /** What to tell the control plane. */
  told(): Pick<Observation, "usage" | "usageEnded"> {
    const peers: NonNullable<Observation["usage"]>["peers"] = [];
    const denied: NonNullable<Observation["usage"]>["denied"] = [];
    const ended: NonNullable<Observation["usageEnded"]> = [];
    for (const { life, publicKey, total, state } of this.#lives) {
      const [first, second] = total;
      if (publicKey === null) denied.push({ life, packets: first, names: second });
      else if (state === "ended") ended.push({ life, publicKey, rxBytes: first, txBytes: second });
      else {
        const lastHandshakeAt = this.#handshakes.get(life) ?? null;
        peers.push({ life, publicKey, rxBytes: first, txBytes: second, lastHandshakeAt });
      }
    }
    if (this.#lives.length === 0) return {};
    return { usage: { peers, denied }, usageEnded: ended };
  }

  /** Keeps the counts for the next start, if there is anything new. */
  save(): void {
    if (!this.#changed) return;
    const since = this.#now() - TELL_ENDED_MS;
    const ended = this.#lives.filter((life) => life.state === "ended");
    const drop = new Set(
      ended.filter(
        ({ total, endedAt }, i) =>
          i < ended.length - MOST_ENDED || total.every((n) => n === 0) || (endedAt ?? 0) < since,
      ),
    );
    this.#lives = this.#lives.filter((life) => !drop.has(life));
    for (const { life } of drop) this.#handshakes.delete(life);
    this.#save(this.#lives);
    this.#changed = false;
  }

  #begin(tunnel: string, publicKey: string | null, seen: Pair): void {
    this.#lives.push({ life: this.#newLife(), tunnel, publicKey, seen, total: [0, 0], state: "live", endedAt: null });
    this.#changed = true;
  }

  /** Less than before: the counter began anew. */
  #count(life: Life, now: Pair): void {
    const grown = (i: 0 | 1) => life.total[i] + (now[i] < life.seen[i] ? now[i] : now[i] - life.seen[i]);
    this.#set(life, "total", [grown(0), grown(1)]);
    this.#set(life, "seen", now);
  }

  #set<K extends "seen" | "total" | "state">(life: Life, key: K, value: Life[K]): void {
    if (String(life[key]) === String(value)) return;
    life[key] = value;
    this.#changed = true;
  }
}

function keysOf(items: readonly StateItem[], tunnel: string): Set<string> {
  const tunnels = itemsOf(items, "wireguard").filter((item) => item.interface === tunnel);
  return new Set(tunnels.flatMap((item) => item.peers.map((peer) => peer.publicKey)));
}
