/** Which hosts a lab has and what their addresses are. Pure, so that two runs of one shape get the same addresses. */

export type HostKind = "client" | "boarding" | "forward" | "exit" | "cp";

export interface HostPlan {
  /** `client1`, `boarding1`, `forward1`, `exit1`, `cp`; also the name of the router's interface towards it. */
  name: string;
  kind: HostKind;
  /** Public address, on `eth0`, a /30 with the router. */
  address: string;
  /** The router's end of that /30. */
  router: string;
  /** Address in the private network, on `udpn0`. Forwards and exits only. */
  privateAddress: string | undefined;
}

export interface Shape {
  clients: number;
  boardings: number;
  forwards: number;
  exits: number;
}

/** The one site on everyone's whitelist, and one that is on nobody's. */
export const WEB_LISTED = "192.0.2.80";
export const WEB_UNLISTED = "192.0.2.81";
export const PRIVATE_NET = "10.77.0.0/24";
export const PUBLIC_INTERFACE = "eth0";
export const PRIVATE_INTERFACE = "udpn0";

/** Where each kind's /30 networks begin, in its documentation range, and how many fit. */
const BLOCKS: Record<HostKind, { net: string; first: number; most: number }> = {
  cp: { net: "198.51.100", first: 0, most: 1 },
  boarding: { net: "198.51.100", first: 4, most: 12 },
  forward: { net: "198.51.100", first: 16, most: 16 },
  client: { net: "198.51.100", first: 32, most: 32 },
  exit: { net: "203.0.113", first: 0, most: 48 }, // .192 and up stay free for addresses that move between exits
};

/** All hosts of a lab of this shape. Throws RangeError when the address plan can't hold them. */
export function planHosts(shape: Shape): HostPlan[] {
  return [
    ...plan("cp", 1),
    ...plan("client", shape.clients),
    ...plan("boarding", shape.boardings),
    ...plan("forward", shape.forwards),
    ...plan("exit", shape.exits),
  ];
}

function plan(kind: HostKind, count: number): HostPlan[] {
  const { net, first, most } = BLOCKS[kind];
  if (!Number.isInteger(count) || count < 0 || count > most) {
    throw new RangeError(`a lab has 0 to ${most} hosts of kind ${kind}, not ${count}`);
  }
  return Array.from({ length: count }, (_, i) => {
    const base = 4 * (first + i);
    return {
      name: kind === "cp" ? "cp" : `${kind}${i + 1}`,
      kind,
      address: `${net}.${base + 2}`,
      router: `${net}.${base + 1}`,
      privateAddress: kind === "forward" ? `10.77.0.${11 + i}` : kind === "exit" ? `10.77.0.${101 + i}` : undefined,
    };
  });
}
