import { ipv4ToNumber, numberToIpv4 } from "../../shared/protocol/values.ts";

/** A peer as the kernel (or wireguard-go) holds it. */
export interface SeenPeer {
  publicKey: string;
  hasPresharedKey: boolean;
  /** `address:port`, or null before the first packet. */
  endpoint: string | null;
  /** Sorted, host bits cleared. */
  allowedIps: string[];
  /** UTC ms, or null when there was none. */
  lastHandshakeAt: number | null;
  rxBytes: number;
  txBytes: number;
  /** Seconds, 0 is off. */
  keepalive: number;
}

/** An interface without its private key: that never leaves the parser. */
export interface SeenWireguard {
  publicKey: string | null;
  listenPort: number;
  peers: SeenPeer[];
}

/**
 * Reads `wg show IF dump`: tabs, the interface first (private key, public key, listen port, fwmark), then 8 fields a
 * peer. The private key is dropped here.
 */
export function parseDump(text: string): SeenWireguard {
  const [first = "", ...rest] = text.split("\n").filter((line) => line !== "");
  const [, publicKey = "(none)", listenPort] = first.split("\t");
  return {
    publicKey: publicKey === "(none)" ? null : publicKey,
    listenPort: Number(listenPort) || 0,
    peers: rest.map((line) => {
      const [key = "", psk, endpoint = "(none)", allowed = "(none)", handshake, rx, tx, keepalive] = line.split("\t");
      return {
        publicKey: key,
        hasPresharedKey: psk !== "(none)",
        endpoint: endpoint === "(none)" ? null : endpoint,
        allowedIps: allowed === "(none)" ? [] : allowed.split(",").sort(),
        lastHandshakeAt: Number(handshake) > 0 ? Number(handshake) * 1000 : null,
        rxBytes: Number(rx) || 0,
        txBytes: Number(tx) || 0,
        keepalive: Number(keepalive) || 0,
      };
    }),
  };
}

/** An address with prefix length as WireGuard keeps it: host bits cleared. */
export function networkOf(text: string): string {
  const [address = "", length = "32"] = text.split("/");
  const size = 2 ** (32 - Number(length));
  return `${numberToIpv4(Math.floor(ipv4ToNumber(address) / size) * size)}/${length}`;
}
