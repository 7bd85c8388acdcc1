import { expect, test } from "vitest";
import { ipv4ToNumber } from "../../shared/protocol/values.ts";
import { planHosts } from "./topology.ts";

test("the largest lab gives every host a /30 of its own and an address of its own", () => {
  const hosts = planHosts({ clients: 32, boardings: 12, forwards: 16, exits: 48 });
  const nets = hosts.map((h) => ipv4ToNumber(h.address) >>> 2);
  expect(new Set(nets).size).toBe(hosts.length);
  for (const h of hosts) expect(ipv4ToNumber(h.router) + 1).toBe(ipv4ToNumber(h.address));
  const privates = hosts.flatMap((h) => h.privateAddress ?? []);
  expect(new Set(privates).size).toBe(64);
  expect(new Set(hosts.map((h) => h.name)).size).toBe(hosts.length);
});

test("a shape that does not fit is refused", () => {
  expect(() => planHosts({ clients: 33, boardings: 1, forwards: 1, exits: 1 })).toThrow(/0 to 32/);
});
