import { expect, test } from "vitest";
import type { WireguardItem } from "../../shared/protocol/desired-state.ts";
import { makeKeys } from "../keys.ts";
import { networkOf, parseDump } from "./wireguard-dump.ts";
import { nextExpiry, planWireguard } from "./wireguard-plan.ts";

const key = () => makeKeys("exit").wireguard?.publicKey ?? "";
const [ours, old, fresh] = [key(), key(), key()];
const link = { name: "tl0", mtu: 1392, up: true, addresses: ["10.13.13.1/24"] };

function item(peers: WireguardItem["peers"]): WireguardItem {
  return {
    type: "wireguard",
    id: "wg",
    interface: "tl0",
    listenPort: 51820,
    address: "10.13.13.1/24",
    mtu: 1392,
    peers,
  };
}
const peer = (publicKey: string, notAfter: number | null = null) => {
  return { publicKey, allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter };
};
function seen(dump: string, more = {}) {
  return {
    links: new Map([["tl0", link]]),
    tunnels: new Map([["tl0", parseDump(dump)]]),
    ours: ["tl0"],
    publicKey: ours,
    ...more,
  };
}
const dump = (...peers: string[]) =>
  `PRIVATE\t${ours}\t51820\toff\n${peers.map((p) => `${p}\t(none)\t1.2.3.4:5\t10.13.13.2/32\t1700000000\t10\t20\toff\n`).join("")}`;

test("the private key of a dump goes nowhere", () => {
  const parsed = parseDump(dump(old));
  expect(JSON.stringify(parsed)).not.toContain("PRIVATE");
  expect(parsed.peers[0]).toMatchObject({
    endpoint: "1.2.3.4:5",
    lastHandshakeAt: 1_700_000_000_000,
    rxBytes: 10,
    txBytes: 20,
  });
});

test("a peer is replaced by one command, the old one's removal first: they share an address", () => {
  const { steps } = planWireguard(seen(dump(old)), [item([peer(fresh)])], 0);
  expect(steps).toHaveLength(1);
  expect(steps[0]).toMatchObject({
    kind: "set",
    args: ["peer", old, "remove", "peer", fresh, "persistent-keepalive", "0", "allowed-ips", "10.13.13.2/32"],
  });
});

test("an equal tunnel needs nothing", () => {
  expect(planWireguard(seen(dump(old)), [item([peer(old)])], 0)).toEqual({ steps: [], refused: [] });
});

test("notAfter is exact, and the next one is known", () => {
  const items = [item([peer(old, 1000)])];
  expect(planWireguard(seen(dump(old)), items, 999).steps).toEqual([]);
  expect(planWireguard(seen(dump(old)), items, 1000).steps[0]).toMatchObject({
    cause: "expired",
    args: ["peer", old, "remove"],
  });
  expect([nextExpiry(items, 999), nextExpiry(items, 1000)]).toEqual([1000, undefined]);
});

test("what can't or may not be ours is refused by name", () => {
  const why = (s: ReturnType<typeof seen>, i: WireguardItem) =>
    planWireguard(s, [i], 0).refused[0]?.error.split(":")[0];
  expect(why(seen(dump(), { ours: [] }), item([]))).toBe("interface_taken");
  expect(why(seen(dump()), { ...item([]), interface: "eth0" })).toBe("bad_interface");
  expect(why(seen(dump(), { publicKey: null }), item([]))).toBe("no_key");
  expect(why(seen(dump()), item([peer(old), peer(fresh)]))).toBe("duplicate_address");
});

test("only what is recorded as ours is ever removed", () => {
  const links = new Map([
    ["tl0", link],
    ["tl1", { ...link, name: "tl1" }],
  ]);
  const { steps } = planWireguard(seen(dump(), { links }), [], 0);
  expect(steps.map((s) => [s.kind, s.interface])).toEqual([["remove", "tl0"]]);
});

test("networks are compared as WireGuard keeps them", () => {
  expect(["10.13.13.2/24", "10.13.13.2/32", "1.2.3.4/0"].map(networkOf)).toEqual([
    "10.13.13.0/24",
    "10.13.13.2/32",
    "0.0.0.0/0",
  ]);
});
