import { describe, expect, test } from "vitest";
import { readArguments, UsageError } from "./arguments.ts";
import { isMet, jsonLine, ratioOf, table } from "./report.ts";
import { mean, median, percentile, round } from "./statistics.ts";
import { bestGoodput, readIperf } from "./udp-load.ts";

describe("percentiles", () => {
  test("are samples, by nearest rank, whatever the order", () => {
    const samples = [5, 1, 4, 2, 3];
    expect([0, 20, 50, 99, 100].map((p) => percentile(samples, p))).toEqual([1, 1, 3, 5, 5]);
    expect(percentile([7], 99)).toBe(7);
    expect(median([10, 9, 100])).toBe(10);
    expect(samples).toEqual([5, 1, 4, 2, 3]);
  });

  test("of a thousand samples p99 leaves out the slowest ten", () => {
    expect(
      percentile(
        Array.from({ length: 1000 }, (_, i) => i + 1),
        99,
      ),
    ).toBe(990);
  });

  test("of nothing are not a number, nor is the mean", () => {
    expect(percentile([], 99)).toBeNaN();
    expect(mean([])).toBeNaN();
  });

  test("rounding keeps significant digits", () => {
    expect([1234.56, 0.00123456, 0].map((v) => round(v, 3))).toEqual([1230, 0.00123, 0]);
  });
});

describe("the line a script reads", () => {
  test("has all six members, null for what there is none of", () => {
    expect(jsonLine("push", { metric: "m", value: 1.23456, unit: "ms" })).toBe(
      '{"bench":"push","metric":"m","value":1.235,"unit":"ms","baseline":null,"ratio":null}',
    );
    expect(JSON.parse(jsonLine("push", { metric: "m", value: Number.NaN, unit: "ms" })).value).toBeNull();
  });

  test("says as ratio what the target speaks of", () => {
    const figure = { metric: "m", value: 20, unit: "ms", baseline: 200 };
    expect(ratioOf(figure)).toBe(0.1);
    expect(ratioOf({ ...figure, compare: "faster" })).toBe(10);
    expect(JSON.parse(jsonLine("push", { ...figure, compare: "faster" })).ratio).toBe(10);
  });
});

describe("targets", () => {
  test("are met at their bound and missed past it", () => {
    const figure = { metric: "m", value: 20, unit: "ms", baseline: 200, compare: "faster" as const };
    expect(isMet(figure)).toBeUndefined();
    expect(isMet({ ...figure, target: { of: "ratio", atLeast: 10 } })).toBe(true);
    expect(isMet({ ...figure, target: { of: "ratio", atLeast: 10.1 } })).toBe(false);
    expect(isMet({ ...figure, target: { of: "value", atMost: 20 } })).toBe(true);
  });

  test("are missed by a figure that could not be had", () => {
    expect(isMet({ metric: "m", value: Number.NaN, unit: "ms", target: { of: "value", atMost: 9 } })).toBe(false);
    expect(isMet({ metric: "m", value: 1, unit: "ms", target: { of: "ratio", atLeast: 1 } })).toBe(false);
  });

  test("show in the table, one line a figure", () => {
    const text = table([
      { metric: "open", value: 20, unit: "ms", baseline: 200, compare: "faster", target: { of: "ratio", atLeast: 50 } },
    ]);
    expect(text.split("\n")).toHaveLength(2);
    expect(text).toContain("10 ×");
    expect(text).toContain("MISSED");
  });
});

describe("arguments", () => {
  const read = (...argv: string[]) => readArguments(argv, ["push", "swarm"]);

  test("name a bench and its sizes", () => {
    expect(read("swarm", "--json", "--agents", "500")).toEqual({
      bench: "swarm",
      json: true,
      help: false,
      numbers: { agents: 500 },
    });
    expect(read("swarm", "--sizes", "3").numbers).toEqual({ sizes: 3 });
    expect(read("swarm", "--steps", "4").numbers).toEqual({ steps: 4 });
    expect(read("--help").help).toBe(true);
  });

  test.each([
    ["nosuch"],
    ["push", "more"],
    ["push", "--agents", "many"],
    ["push", "--agents", "0"],
    ["push", "--fast"],
  ])("%s %s %s is refused with a sentence", (...argv) => {
    expect(() => read(...argv)).toThrow(UsageError);
  });
});

describe("the search for the best goodput", () => {
  /** A path that carries so much and loses the rest; the sender can't offer more than `sender`. */
  const path = (capacity: number, sender: number) => async (rate: number) => {
    const sent = Math.min(rate, sender);
    return { goodputMbps: Math.min(sent, capacity), lostPct: 100 * Math.max(0, 1 - capacity / sent) };
  };

  test.each([
    [1000, 900],
    [1000, 20_000],
  ])("finds %i within a step, whatever was expected (%i)", async (capacity, expected) => {
    const best = await bestGoodput(path(capacity, 50_000), 0.5, expected);
    expect(best).toBeGreaterThan(capacity / 1.16);
    expect(best).toBeLessThanOrEqual(capacity);
  });

  test("ends where the sender does", async () => {
    expect(await bestGoodput(path(10_000, 700), 0.5, 1000)).toBe(700);
  });

  test("has no figure for a path that always loses", async () => {
    expect(await bestGoodput(async () => ({ goodputMbps: 1, lostPct: 90 }), 0.5, 1000)).toBeNaN();
  });
});

test("iperf3's result is what arrived, and an error is told", () => {
  const sum = { bits_per_second: 1e9, lost_percent: 25 };
  expect(readIperf(JSON.stringify({ end: { sum } }))).toEqual({ goodputMbps: 750, lostPct: 25, sentMbps: 1000 });
  expect(() => readIperf(JSON.stringify({ error: "unable to connect" }))).toThrow("unable to connect");
});
