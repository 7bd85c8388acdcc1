import fc from "fast-check";
import { expect, test } from "vitest";
import { linkProxyItemSchema } from "../../../shared/protocol/desired-state.ts";
import { allowed } from "./link-ways.ts";

const number = (address: string) => address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
const holds = (network: string, address: string) => {
  const [base = "", length = ""] = network.split("/");
  const size = 2 ** (32 - Number(length));
  return Math.floor(number(address) / size) * size === number(base);
};

test("however many hosts may come in by a forward host, all are let in and its state stays one it can take", () => {
  const octet = fc.integer({ min: 0, max: 255 });
  // As many as no fc.array would make: an address for each of so many numbers, spread over a network of some size.
  const spread = fc.record({
    first: octet,
    count: fc.integer({ min: 1, max: 6000 }),
    step: fc.integer({ min: 1, max: 2790 }),
  });
  fc.assert(
    fc.property(spread, ({ first, count, step }) => {
      const address = (n: number) => `${first}.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`;
      const sources = Array.from({ length: count }, (_, i) => address(i * step));
      const allow = allowed(sources);
      const item = { type: "linkProxy", id: "link-proxy", address: "0.0.0.0", port: 1, allow };
      expect(linkProxyItemSchema.safeParse(item).success).toBe(true);
      expect(allow.length).toBeLessThanOrEqual(256);
      for (const source of sources.filter((_, i) => i % 61 === 0))
        if (!allow.some((network) => holds(network, source))) throw new Error(source);
    }),
    { numRuns: 50 },
  );
  const few = Array.from({ length: 256 }, (_, i) => `10.${i}.1.2`);
  expect(allowed(few)).toEqual(few.map((source) => `${source}/32`));
});
