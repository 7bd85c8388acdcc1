import { expect, test } from "vitest";
import type { Id } from "../../shared/ids.ts";
import type { BusMessage, Database } from "../ports/index.ts";
import { AppliedWaiters } from "./applied-waiters.ts";
import { LinkHub } from "./hub.ts";

test("however many hosts are woken, every one is told of on the bus, in messages that other processes take", () => {
  const told: BusMessage[] = [];
  const bus = { publish: (message: BusMessage) => told.push(message), subscribe() {}, close: async () => {} };
  const delay = () => () => {};
  const clock = { monotonic: () => 0, wall: () => 0 };
  const hub = new LinkHub(clock, new AppliedWaiters({} as Database, delay), bus, delay);
  const ids = Array.from({ length: 25_001 }, (_, i) => `hst_${String(i).padStart(26, "0")}` as Id<"hst">);
  for (const [t, wake] of [
    ["wake", () => hub.wake(ids)],
    ["tasks", () => hub.wakeTasks(ids)],
  ] as const) {
    told.length = 0;
    wake();
    const lists = told.map((message) => (message.t === t ? message.hostIds : []));
    expect(lists.flat()).toEqual(ids);
    expect(Math.max(...lists.map((list) => list.length))).toBeLessThanOrEqual(10_000);
  }
  told.length = 0;
  hub.wake([]);
  expect(told).toEqual([]);
});
