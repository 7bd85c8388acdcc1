import fc from "fast-check";
import { expect, test } from "vitest";
import { lineSplitter } from "./lines.ts";
import { pingArgs } from "./ping.ts";
import { parsePingLine } from "./ping-output.ts";
import { pingStatistics } from "./ping-statistics.ts";

// Recorded from iputils 20221126 (Debian 12): the neighbour was resolved 1.7 s after the first request.
const LATE = `PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.
[1795316897.798801] no answer yet for icmp_seq=1
[1795316898.118825] no answer yet for icmp_seq=2
[1795316899.526927] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=2044 ms
[1795316899.526953] 64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=1728 ms
[1795316899.526975] 64 bytes from 10.0.0.2: icmp_seq=3 ttl=64 time=128 ms
[1795316899.699302] 64 bytes from 10.0.0.2: icmp_seq=4 ttl=64 time=0.045 ms

--- 10.0.0.2 ping statistics ---
4 packets transmitted, 4 received, 0% packet loss, time 2216ms
rtt min/avg/max/mdev = 0.045/951.517/2044.009/697.690 ms, pipe 7
`;

const UNREACHABLE = `PING 10.0.0.9 (10.0.0.9) 56(84) bytes of data.
[1795316900.710843] no answer yet for icmp_seq=1
[1795316902.758973] From 10.0.0.1 icmp_seq=1 Destination Host Unreachable
[1795316902.759043] From 10.0.0.1 icmp_seq=3 Destination Host Unreachable

--- 10.0.0.9 ping statistics ---
4 packets transmitted, 0 received, +3 errors, 100% packet loss, time 3051ms
pipe 4
`;

const parse = (output: string) => output.split("\n").flatMap((line) => parsePingLine(line) ?? []);

test("a late answer follows its own silence, with the time it really took", () => {
  expect(parse(LATE)).toEqual([
    { type: "no_answer_yet", seq: 1, at: 1_795_316_897_799 },
    { type: "no_answer_yet", seq: 2, at: 1_795_316_898_119 },
    { type: "reply", seq: 1, rttMs: 2044, at: 1_795_316_899_527 },
    { type: "reply", seq: 2, rttMs: 1728, at: 1_795_316_899_527 },
    { type: "reply", seq: 3, rttMs: 128, at: 1_795_316_899_527 },
    { type: "reply", seq: 4, rttMs: 0.045, at: 1_795_316_899_699 },
    { type: "sent", count: 4 },
  ]);
});

test("an unreachable target is told apart from silence, by sequence number", () => {
  expect(parse(UNREACHABLE)).toEqual([
    { type: "no_answer_yet", seq: 1, at: 1_795_316_900_711 },
    { type: "refused", seq: 1, why: "Destination Host Unreachable", at: 1_795_316_902_759 },
    { type: "refused", seq: 3, why: "Destination Host Unreachable", at: 1_795_316_902_759 },
    { type: "sent", count: 4 },
  ]);
});

test("a duplicate answer is not a second reply", () => {
  expect(
    parsePingLine("[1795316899.526927] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=1.5 ms (DUP!)"),
  ).toBeUndefined();
});

test("lines come out whole however the output is cut", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(LATE.length), { maxLength: 20 }), (cuts) => {
      const lines: string[] = [];
      const feed = lineSplitter((line) => lines.push(line));
      const at = [0, ...cuts.sort((a, b) => a - b), LATE.length];
      for (const [i, from] of at.entries()) feed(LATE.slice(from, at[i + 1] ?? LATE.length));
      expect(lines).toEqual(LATE.split("\n").slice(0, -1));
    }),
  );
});

test("the result counts by sequence number", () => {
  const replies = [
    { seq: 2, rttMs: 20 },
    { seq: 1, rttMs: 10 }, // late
    { seq: 1, rttMs: 99 }, // a duplicate
    { seq: 7, rttMs: 30 },
  ];
  expect(pingStatistics(8, replies)).toEqual({
    sent: 8,
    received: 3,
    lossPct: 62.5,
    minMs: 10,
    meanMs: 20,
    p50Ms: 20,
    p95Ms: 30,
    p99Ms: 30,
    // |10-20|/16 = 0.625, then 0.625 + (|30-10| - 0.625)/16
    jitterMs: 1.836,
    longestLossRun: 4, // 3 to 6; 8 is a run of one
  });
});

test("nothing received is nulls, not zeros", () => {
  expect(pingStatistics(3, [])).toMatchObject({
    received: 0,
    lossPct: 100,
    minMs: null,
    p99Ms: null,
    jitterMs: null,
    longestLossRun: 3,
  });
  expect(pingStatistics(0, [])).toMatchObject({ sent: 0, lossPct: 0 });
});

test("percentiles of 1 to 100 are themselves", () => {
  const replies = Array.from({ length: 100 }, (_, i) => ({ seq: i + 1, rttMs: 100 - i }));
  expect(pingStatistics(100, replies)).toMatchObject({
    p50Ms: 50,
    p95Ms: 95,
    p99Ms: 99,
    minMs: 1,
    meanMs: 50.5,
    jitterMs: expect.closeTo(0.998, 2),
  });
});

test("statistics hold together for any replies", () => {
  const reply = fc.record({
    seq: fc.integer({ min: 1, max: 50 }),
    rttMs: fc.double({ min: 0, max: 5000, noNaN: true }),
  });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 60 }), fc.array(reply, { maxLength: 80 }), (sent, replies) => {
      const s = pingStatistics(sent, replies);
      expect(s.received).toBeLessThanOrEqual(s.sent);
      expect(s.longestLossRun).toBeLessThanOrEqual(s.sent - s.received);
      if (s.minMs !== null && s.p50Ms !== null && s.p95Ms !== null && s.p99Ms !== null) {
        expect(s.minMs <= s.p50Ms && s.p50Ms <= s.p95Ms && s.p95Ms <= s.p99Ms).toBe(true);
      }
    }),
  );
});

test("every parameter is an argument of its own, and the target comes after the options' end", () => {
  const argv = pingArgs({ target: "192.0.2.80", interface: "wg0", count: 3, intervalMs: 200 });
  expect(argv.join(" ")).toBe("-D -O -n -i 0.2 -W 1 -c 3 -I wg0 -- 192.0.2.80");
});
