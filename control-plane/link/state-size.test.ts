import { expect, test } from "vitest";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { MAX_FRAME_DOWN, parseServerFrame } from "../../shared/protocol/frames.ts";
import { MOST_PORTS } from "../services/hosts/pairs.ts";
import { whyTooLarge } from "./state-size.ts";

const relay = (n: number): StateItem => ({
  type: "relay",
  id: `con_01kkaydmg0nzq4fbpr0mq5${String(n).padStart(4, "0")}`,
  listen: { from: 30_000 + n, to: 30_000 + n },
  to: { address: "255.255.255.255", port: 51_820 },
  driver: "socat",
});
const relays = (n: number) => Array.from({ length: n }, (_, i) => relay(i));
const frameOf = (items: StateItem[]) =>
  JSON.stringify({
    t: "state",
    rev: 2 ** 50,
    sha256: "0".repeat(64),
    items,
    signature: { keyId: "k".repeat(64), value: `${"A".repeat(86)}==` },
  });

test("a forward host with every port it may have fits into a frame that agents take", () => {
  const items = relays(MOST_PORTS);
  expect(whyTooLarge(items)).toBeUndefined();
  expect(parseServerFrame(frameOf(items)).kind).toBe("frame");
});

test("what agents would refuse is found, and what they take is not", () => {
  for (const n of [6_000, 6_500, 7_000, 7_500, 9_000]) {
    const items = relays(n);
    const refused = parseServerFrame(frameOf(items)).kind !== "frame";
    // At the edge it may say no a little early, never late.
    if (refused) expect(whyTooLarge(items)).toMatch(/bytes/);
    else if (frameOf(items).length < MAX_FRAME_DOWN - 1024) expect(whyTooLarge(items)).toBeUndefined();
  }
  expect(whyTooLarge(relays(10_001))).toMatch(/items/);
});
