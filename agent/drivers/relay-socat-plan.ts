import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { relaysOf, type Target } from "./relay-plan.ts";

export interface SocatOptions {
  /** Bytes the kernel may keep for each socket, each way; the kernel cuts it to net.core.rmem_max and wmem_max. */
  bufferBytes: number;
  /** Flows of one port at a time. */
  maxChildren: number;
}

export const DEFAULT_SOCAT: SocatOptions = { bufferBytes: 1024 * 1024, maxChildren: 64 };

/** Seconds without a packet after which a flow's process ends: as long as the kernel keeps a UDP stream. */
const IDLE_S = 180;

export const serviceOf = (port: number | "") => `relay-${port}`;
export const portOf = (service: string) => Number(service.slice(serviceOf("").length));

/** The relays socat should run, by port, and the items it can't. */
export function socatWants(items: readonly StateItem[]) {
  const { had, refused } = relaysOf(items, "socat");
  const wants = new Map<number, { item: string; target: Target }>();
  for (const { id, listen, to } of had) {
    if (listen.from !== listen.to) {
      const why = "the boarding range should be nft even where forwards use socat";
      refused.push({ item: id, error: `range_by_socat: a range can't be relayed by socat; ${why}` });
      continue;
    }
    const port = to.port === "same" ? listen.from : to.port;
    wants.set(listen.from, { item: id, target: { address: to.address, port } });
  }
  return { wants, refused };
}

/**
 * The listener's argv. Towards the target it is UDP4-SENDTO and not UDP4: a connected socket is told when the target
 * refuses (ICMP), which ends the flow's process, and the next packet forks another, 879 forks in 1,000 packets where it
 * was measured. SENDTO hears nothing of it, so a dead target costs its packets and nothing else; answers from any other
 * address than the target's are dropped all the same.
 */
export function socatArgv(port: number, target: Target, options: SocatOptions): string[] {
  const buffers = `rcvbuf=${options.bufferBytes},sndbuf=${options.bufferBytes}`;
  return [
    "socat",
    "-T",
    String(IDLE_S),
    `UDP4-LISTEN:${port},reuseaddr,fork,max-children=${options.maxChildren},${buffers}`,
    `UDP4-SENDTO:${target.address}:${target.port},${buffers}`,
  ];
}
