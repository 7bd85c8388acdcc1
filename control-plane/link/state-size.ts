import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { MAX_FRAME_DOWN } from "../../shared/protocol/frames.ts";

/** Frame without its items: revision, hash, signature. */
const ENVELOPE = 512;
const MOST_ITEMS = 10_000;

/** Why these items fit into no frame that an agent takes, or undefined when they do. */
export function whyTooLarge(items: readonly StateItem[]): string | undefined {
  if (items.length > MOST_ITEMS) return `${items.length} items, and a host takes ${MOST_ITEMS}`;
  // Counted exactly only where it may matter: states are sent often, and nearly all are small.
  if (items.reduce((sum, item) => sum + atMost(item), ENVELOPE) <= MAX_FRAME_DOWN) return undefined;
  const bytes = JSON.stringify(items).length + ENVELOPE;
  return bytes <= MAX_FRAME_DOWN ? undefined : `${bytes} bytes, and a host takes ${MAX_FRAME_DOWN}`;
}

/** More bytes than the item takes as JSON. */
function atMost(item: StateItem): number {
  if (item.type === "whitelist") return 512 + 24 * item.cidrs.length + 260 * item.domains.length;
  if (item.type === "wireguard") return 512 + 512 * item.peers.length;
  return 512;
}
