import { expect, test } from "vitest";
import { parseConntrackDrops, parseUdpErrors } from "./observe.ts";

test("UDP errors of both IP versions are added up, and a kernel without IPv6 has none of its", () => {
  const v4 = `Ip: Forwarding DefaultTTL
Ip: 1 64
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors
Udp: 900 3 41 800 40 2 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors
UdpLite: 7 7 7 7 7 7 7
`;
  const v6 = "Udp6InDatagrams\t5\nUdp6InErrors                    \t1\nUdp6RcvbufErrors                \t1\n";
  expect(parseUdpErrors(v4)).toEqual({ inErrors: 41, rcvbufErrors: 40, sndbufErrors: 2 });
  expect(parseUdpErrors(v4 + v6)).toEqual({ inErrors: 42, rcvbufErrors: 41, sndbufErrors: 2 });
  expect(parseUdpErrors("")).toEqual({ inErrors: 0, rcvbufErrors: 0, sndbufErrors: 0 });
});

test("conntrack's drops are read by name, in hexadecimal, over all CPUs", () => {
  const text = `entries  clashres found insert_failed drop early_drop search_restart
0000000a  00000000 00000001 00000010 00000001 00000002 00000000
0000000a  00000000 00000001 00000000 00000001 0000000f 00000000
`;
  expect(parseConntrackDrops(text)).toBe(16 + 1 + 2 + 1 + 15);
  expect(parseConntrackDrops("")).toBe(0);
});
