import { expect, test } from "vitest";
import type { RelayItem } from "../../shared/protocol/desired-state.ts";
import type { Flow } from "./conntrack.ts";
import { RELAY_MARK, relaysOf, relayWants, strays } from "./relay-plan.ts";

function relay(id: string, from: number, to = from, driver: RelayItem["driver"] = "nft"): RelayItem {
  return { type: "relay", id, listen: { from, to }, to: { address: "10.2.0.2", port: 5000 }, driver };
}

test("of two items that claim a port the first is had, whoever relays it, singles and ranges alike", () => {
  const items = [
    relay("a", 100),
    relay("socat", 101, 101, "socat"),
    relay("range", 200, 299),
    relay("again", 100),
    relay("taken", 101),
    relay("inside", 250),
    relay("over", 90, 100),
    relay("ranges", 299, 310),
    relay("beside", 300),
  ];
  const { had, refused } = relaysOf(items, "nft");
  expect(had.map((item) => item.id)).toEqual(["a", "range", "beside"]);
  expect(refused).toEqual([
    { item: "again", error: "port_overlap: 100-100 overlaps with a" },
    { item: "taken", error: "port_overlap: 101-101 overlaps with socat" },
    { item: "inside", error: "port_overlap: 250-250 overlaps with range" },
    { item: "over", error: "port_overlap: 90-100 overlaps with a" },
    { item: "ranges", error: "port_overlap: 299-310 overlaps with range" },
  ]);
});

test("a flow strays when the table as it is would not have made it", () => {
  const wants = relayWants([relay("a", 100), relay("range", 200, 299)]);
  const flow = (more: Partial<Flow>): Flow => {
    const from = { from: "10.2.0.2", fromPort: 5000, mark: RELAY_MARK };
    return { source: "1.2.3.4", sourcePort: 9, address: "10.1.0.1", port: 100, bytes: 0, ...from, ...more };
  };
  expect(strays(wants, flow({}))).toBe(false);
  expect(strays(wants, flow({ port: 250 }))).toBe(false);
  expect(strays(wants, flow({ from: "10.3.0.2" }))).toBe(true);
  expect(strays(wants, flow({ fromPort: 5001 }))).toBe(true);
  // Never translated: if it was sent to this host, its port has a mapping now.
  expect(strays(wants, flow({ from: "10.1.0.1", fromPort: 100, mark: 0 }))).toBe(true);
  // Its mapping is gone; and one that was never ours.
  expect(strays(wants, flow({ port: 300 }))).toBe(true);
  expect(strays(wants, flow({ port: 300, mark: 0 }))).toBe(false);
});
