import { ipv4ToNumber, numberToIpv4, parseCidr4 } from "../../shared/protocol/values.ts";

/** Addresses from first to last, both included, as unsigned numbers. */
export interface Range {
  first: number;
  last: number;
}

/**
 * Disjoint ranges in order, none touching the next, that cover exactly the given ones: one form for one set of
 * addresses, so that what the kernel holds can be compared with what it should hold.
 */
export function mergeRanges(ranges: Iterable<Range>): Range[] {
  const sorted = [...ranges].sort((a, b) => a.first - b.first);
  const merged: Range[] = [];
  for (const { first, last } of sorted) {
    const previous = merged.at(-1);
    if (previous && first <= previous.last + 1) previous.last = Math.max(previous.last, last);
    else merged.push({ first, last });
  }
  return merged;
}

/** Ranges of CIDR texts, merged. A text that is no CIDR was let in by nobody (the schema refuses it) and throws. */
export function rangesOf(cidrs: Iterable<string>): Range[] {
  const ranges: Range[] = [];
  for (const cidr of cidrs) {
    const range = parseCidr4(cidr);
    if (!range) throw new RangeError(`not an IPv4 network: ${cidr}`);
    ranges.push(range);
  }
  return mergeRanges(ranges);
}

/** As nft reads it. */
export function rangeText({ first, last }: Range): string {
  return first === last ? numberToIpv4(first) : `${numberToIpv4(first)}-${numberToIpv4(last)}`;
}

/** Elements of an interval set out of nft's JSON: an address, a prefix or a range each. */
export function readRanges(elements: readonly unknown[]): Range[] {
  return elements.map((element) => {
    const value = unwrap(element);
    if (typeof value === "string") return { first: ipv4ToNumber(value), last: ipv4ToNumber(value) };
    const { prefix, range } = value as { prefix?: { addr: string; len: number }; range?: [string, string] };
    if (prefix) {
      const first = ipv4ToNumber(prefix.addr);
      return { first, last: first + 2 ** (32 - prefix.len) - 1 };
    }
    if (range) return { first: ipv4ToNumber(range[0]), last: ipv4ToNumber(range[1]) };
    throw new Error("nft lists an element of an unknown form");
  });
}

/** An element with a comment or a timeout, put there by hand, is wrapped once more. */
function unwrap(element: unknown): unknown {
  return (element as { elem?: { val?: unknown } } | null)?.elem?.val ?? element;
}

export function sameRanges(a: readonly Range[], b: readonly Range[]): boolean {
  return a.length === b.length && a.every((r, i) => r.first === b[i]?.first && r.last === b[i]?.last);
}
