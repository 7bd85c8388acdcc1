import { expect, test } from "vitest";
import { findingsOf, type HopFacts, type LineFacts } from "./findings.ts";

const NOW = Date.UTC(2026, 2, 10);
const MINUTE = 60_000;
const DAY = 86_400_000;

const hop = (role: HopFacts["role"], more: Partial<HopFacts> = {}): HopFacts => ({
  role,
  hostId: `hst_${role}`,
  state: "online",
  online: true,
  silentMs: 1_000,
  desiredRev: 7,
  appliedRev: 7,
  neededRev: role === "boarding" ? null : 6,
  failed: [],
  degraded: null,
  ...more,
});

/** A line on which everything is well. */
const facts = (more: Partial<LineFacts> = {}): LineFacts => ({
  now: NOW,
  line: { state: "active", endsAt: NOW + 30 * DAY },
  connection: { openedAt: NOW - 10 * MINUTE },
  hops: [hop("boarding"), hop("forward"), hop("exit")],
  relay: { flows: 1, bytes: 1000 },
  peer: { lastHandshakeAt: NOW - MINUTE },
  whitelist: { entries: 3, deniedPackets: 0, deniedNames: 0 },
  ...more,
});
const hopsWith = (role: HopFacts["role"], more: Partial<HopFacts>) =>
  facts().hops.map((one) => (one.role === role ? { ...one, ...more } : one));
const found = (more: Partial<LineFacts>) =>
  findingsOf(facts(more)).map(({ severity, code, hostId }) =>
    [severity, code, ...(hostId === null ? [] : [hostId])].join(" "),
  );

test("a line that works gives no reason", () => {
  expect(found({})).toEqual([]);
});

test("a line at its end, one near it, one that is not active, one without a connection", () => {
  const line = (state: "active" | "off" | "failed", left: number) => ({ state, endsAt: NOW + left });
  expect(found({ line: line("off", 0), connection: null })).toEqual(["error expired"]);
  expect(found({ line: line("active", 1) })).toEqual(["info expires_soon"]);
  expect(found({ line: line("active", 3 * DAY) })).toEqual(["info expires_soon"]);
  expect(found({ line: line("active", 3 * DAY + 1) })).toEqual([]);
  expect(found({ line: line("failed", 30 * DAY), connection: null })).toEqual(["error line_not_active"]);
  expect(found({ connection: null, peer: undefined, relay: null })).toEqual(["error no_connection"]);
});

test("a host that is offline or draining is named, and what it carries is not called broken by that alone", () => {
  const offline = hopsWith("forward", { online: false, state: "offline", silentMs: 90_000 });
  expect(found({ hops: offline })).toEqual(["warning host_offline hst_forward"]);
  expect(findingsOf(facts({ hops: offline }))[0]?.text).toContain("90 s ago");
  expect(found({ hops: hopsWith("exit", { state: "draining" }) })).toEqual(["info host_draining hst_exit"]);
});

test("a host without the connection's own revision is an error; one that lacks only later ones is a warning", () => {
  expect(found({ hops: hopsWith("exit", { appliedRev: 5 }) })).toEqual(["error configuration_lagging hst_exit"]);
  expect(found({ hops: hopsWith("exit", { appliedRev: null }) })).toEqual(["error configuration_lagging hst_exit"]);
  expect(found({ hops: hopsWith("exit", { appliedRev: 6 }) })).toEqual(["warning configuration_lagging hst_exit"]);
  expect(found({ hops: hopsWith("boarding", { appliedRev: 6 }) })).toEqual([
    "warning configuration_lagging hst_boarding",
  ]);
});

test("an item that failed on a host says which and why", () => {
  const failed = [{ item: "tunnel", error: "port in use" }];
  const [first] = findingsOf(facts({ hops: hopsWith("exit", { failed }) }));
  expect(first).toMatchObject({ severity: "error", code: "configuration_failed", hostId: "hst_exit" });
  expect(first?.text).toContain("tunnel: port in use");
});

test("a segment with its alarm raised is named with its loss", () => {
  const degraded = { target: "192.0.2.7", lossPct: 40, p50Ms: null };
  const [first] = findingsOf(facts({ hops: hopsWith("forward", { degraded }) }));
  expect(first).toMatchObject({ severity: "warning", code: "path_degraded", hostId: "hst_forward" });
  expect(first?.text).toContain("192.0.2.7 is bad: 40% lost.");
});

test("from nothing sent to a stale handshake: how far the client's packets come", () => {
  const never = { lastHandshakeAt: null };
  expect(found({ peer: never, relay: { flows: 0, bytes: 0 } })).toEqual(["error no_packets hst_forward"]);
  expect(found({ peer: never, relay: { flows: 0, bytes: 5 } })).toEqual(["error no_handshake hst_exit"]);
  expect(found({ peer: never, relay: { flows: 1, bytes: 0 } })).toEqual(["error no_handshake hst_exit"]);
  expect(found({ peer: never, relay: null })).toEqual(["error no_handshake hst_exit"]);
  expect(found({ peer: null })).toEqual(["error peer_missing hst_exit"]);
  expect(found({ peer: { lastHandshakeAt: NOW - 180_000 } })).toEqual([]);
  expect(found({ peer: { lastHandshakeAt: NOW - 180_001 } })).toEqual(["warning handshake_stale"]);
});

test("right after an open, what hosts have not told yet is no finding", () => {
  const young = { connection: { openedAt: NOW - 29_999 } };
  expect(found({ ...young, peer: null, relay: { flows: 0, bytes: 0 } })).toEqual([]);
  expect(found({ connection: { openedAt: NOW - 30_000 }, peer: null })).toEqual(["error peer_missing hst_exit"]);
});

test("an empty whitelist is an error, refusals are worth knowing", () => {
  const whitelist = (entries: number, deniedPackets: number, deniedNames = 0) => ({
    whitelist: { entries, deniedPackets, deniedNames },
  });
  expect(found(whitelist(0, 0))).toEqual(["error whitelist_empty"]);
  expect(found(whitelist(3, 9))).toEqual(["info whitelist_denials"]);
  expect(found(whitelist(3, 0, 2))).toEqual(["info whitelist_denials"]);
  expect(found({ whitelist: null })).toEqual([]);
});
