import fc from "fast-check";
import { expect, test } from "vitest";
import { numberToIpv4 } from "../../shared/protocol/values.ts";
import { mergeRanges, rangesOf, rangeText, readRanges } from "./cidr.ts";

const cidr = fc
  .tuple(fc.nat(0xffff_ffff), fc.integer({ min: 0, max: 32 }))
  .map(([n, length]) => `${numberToIpv4(Math.floor(n / 2 ** (32 - length)) * 2 ** (32 - length))}/${length}`);
/** In one small network, so that they touch and overlap. */
const near = fc
  .tuple(fc.nat(255), fc.integer({ min: 24, max: 32 }))
  .map(([n, length]) => `192.0.2.${Math.floor(n / 2 ** (32 - length)) * 2 ** (32 - length)}/${length}`);

test("merged ranges hold exactly the addresses of the networks, disjoint, in order, and none touches another", () => {
  fc.assert(
    fc.property(fc.array(near, { maxLength: 20 }), fc.nat(255), (cidrs, host) => {
      const ranges = rangesOf(cidrs);
      for (let i = 1; i < ranges.length; i++) expect(ranges[i]?.first).toBeGreaterThan((ranges[i - 1]?.last ?? 0) + 1);
      const base = 192 * 2 ** 24 + 2 * 2 ** 8;
      const inMerged = ranges.some((r) => r.first <= base + host && base + host <= r.last);
      const inAny = cidrs.some((c) => rangesOf([c]).some((r) => r.first <= base + host && base + host <= r.last));
      expect(inMerged).toBe(inAny);
    }),
  );
});

test("order and repetition of the networks change nothing", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(cidr, near), { maxLength: 20 }), (cidrs) => {
      expect(rangesOf([...cidrs].reverse().concat(cidrs))).toEqual(rangesOf(cidrs));
    }),
  );
});

test("what nft lists is read back as what was meant", () => {
  const listed = ["8.8.8.8", { range: ["9.0.0.1", "9.0.0.9"] }, { prefix: { addr: "203.0.113.0", len: 24 } }];
  const commented = { elem: { val: "1.1.1.1", comment: "by hand" } };
  expect(mergeRanges(readRanges([...listed, commented])).map(rangeText)).toEqual([
    "1.1.1.1",
    "8.8.8.8",
    "9.0.0.1-9.0.0.9",
    "203.0.113.0-203.0.113.255",
  ]);
});

test("the whole address space is one range", () => {
  expect(rangesOf(["0.0.0.0/1", "128.0.0.0/1"]).map(rangeText)).toEqual(["0.0.0.0-255.255.255.255"]);
});
