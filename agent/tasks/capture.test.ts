import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { filterProblem } from "../../shared/capture-filter.ts";
import { isPrivateAddress } from "../../shared/protocol/values.ts";
import { fullFilter } from "./capture-filter.ts";
import { PcapGate } from "./pcap-gate.ts";
import { parseCounts } from "./tcpdump.ts";
import { FrameReader, frameHeader } from "./uplink-frames.ts";

function pcap(lengths: readonly number[], littleEndian = true): { file: Buffer; ends: number[] } {
  const put = (b: Buffer, at: number, n: number) => (littleEndian ? b.writeUInt32LE(n, at) : b.writeUInt32BE(n, at));
  const header = Buffer.alloc(24);
  put(header, 0, 0xa1b2c3d4);
  const parts = [header];
  const ends = [24];
  for (const [i, length] of lengths.entries()) {
    const record = Buffer.alloc(16 + length, i);
    put(record, 8, length);
    put(record, 12, length + 1000);
    parts.push(record);
    ends.push((ends.at(-1) ?? 0) + record.length);
  }
  return { file: Buffer.concat(parts), ends };
}

describe("the gate", () => {
  const pieces = (file: Buffer, cuts: number[]) => {
    const at = [0, ...cuts.map((c) => c % (file.length + 1)).sort((a, b) => a - b), file.length];
    return at.slice(1).map((to, i) => file.subarray(at[i], to));
  };

  test("passes whole records up to a limit, however the stream is cut and whichever way round it is", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(300), { maxLength: 30 }),
        fc.array(fc.nat(10_000), { maxLength: 30 }),
        fc.nat(12_000),
        fc.option(fc.integer({ min: 1, max: 40 })),
        fc.boolean(),
        (lengths, cuts, bytes, packets, littleEndian) => {
          const { file, ends } = pcap(lengths, littleEndian);
          const gate = new PcapGate({ bytes, packets });
          const passed = Buffer.concat(pieces(file, cuts).map((piece) => gate.feed(piece)));
          const most = packets === null ? ends : ends.slice(0, packets + 1);
          const expected = Math.max(0, ...most.filter((end) => end <= bytes));
          expect(passed.equals(file.subarray(0, expected))).toBe(true);
          expect(gate.bytes).toBe(expected);
          expect(gate.packets).toBe(Math.max(0, ends.indexOf(expected)));
          if (gate.closedBy === undefined) expect(expected).toBe(file.length);
        },
      ),
    );
  });

  test("a stream that is not pcap is refused", () => {
    expect(() => new PcapGate({ bytes: 1e6, packets: null }).feed(Buffer.alloc(64, "x"))).toThrow(/not a pcap/);
  });
});

describe("filters", () => {
  test.each([
    "",
    "udp port 53",
    "host 192.0.2.80 and (tcp port 443 or icmp)",
    "net 10.0.0.0/8 and not src host 10.1.2.3",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "udp[8:4] = 0x04000000",
    "portrange 30000-30199",
    "ip6 host 2001:db8::1",
    "ether host 00:11:22:33:44:55",
    "len > 100 and greater 60",
    "ip[2:2] - 20 > 40",
  ])("%j passes", (filter) => {
    expect(filterProblem(filter)).toBeUndefined();
  });

  test.each([
    ["host example.com", /example\.com/],
    ["host localhost", /localhost/],
    ["port http", /http/],
    ["host 1.de", /1\.de/],
    ["host 3com", /3com/],
    ["udp; id", /character/],
    ["udp $(id)", /character/],
    ["-w /tmp/x", /"w"|\/tmp/],
    [`host 1.1.1.1${" or host 1.1.1.1".repeat(100)}`, /longer/],
  ])("%#: %.20s is refused before any program sees it", (filter, why) => {
    expect(filterProblem(filter)).toMatch(why);
  });

  test("a capture never captures itself", () => {
    const uplink = { address: "10.77.0.11", port: 7443 };
    const exclude = [{ address: "198.51.100.2", port: 8787 }];
    expect(fullFilter({ filter: "udp or tcp", uplink, exclude })).toBe(
      "(udp or tcp) and not (host 10.77.0.11 and tcp port 7443) and not (host 198.51.100.2 and tcp port 8787)",
    );
    expect(fullFilter({ filter: " ", uplink, exclude: [] })).toBe("not (host 10.77.0.11 and tcp port 7443)");
  });
});

test("tcpdump's closing counts are its last, not those of a SIGUSR1", () => {
  const said = `tcpdump: listening on eth0, link-type EN10MB (Ethernet), snapshot length 128 bytes
tcpdump: 3 packets captured, 3 packets received by filter, 0 packets dropped by kernel
7 packets captured
9 packets received by filter
1 packet dropped by kernel
`;
  expect(parseCounts(said)).toEqual({ receivedByFilter: 9, droppedByKernel: 1 });
  expect(parseCounts("tcpdump: eth9: No such device exists")).toBeUndefined();
});

test("only addresses that no internet routes are private", () => {
  for (const a of ["10.77.0.11", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"])
    expect(isPrivateAddress(a)).toBe(true);
  for (const a of ["203.0.113.2", "172.32.0.1", "100.128.0.1", "11.0.0.1", "127.0.0.1"])
    expect(isPrivateAddress(a)).toBe(false);
});

describe("uplink frames", () => {
  test("come out as they went in, however the stream is cut", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 50 })),
        fc.integer({ min: 1, max: 20 }),
        (payloads, step) => {
          const wire = Buffer.concat([...payloads.flatMap((p) => [frameHeader(p.length), p]), frameHeader(0)]);
          const reader = new FrameReader();
          const out: Buffer[] = [];
          for (let at = 0; at < wire.length; at += step) {
            expect(reader.ended).toBe(false);
            out.push(...reader.feed(wire.subarray(at, at + step)));
          }
          expect(reader.ended).toBe(true);
          expect(Buffer.concat(out).equals(Buffer.concat(payloads))).toBe(true);
        },
      ),
    );
  });

  test("a huge frame and bytes after the end are refused", () => {
    expect(() => [...new FrameReader().feed(Buffer.from([0xff, 0, 0, 0]))]).toThrow(/frame of/);
    expect(() => [...new FrameReader().feed(Buffer.from([0, 0, 0, 0, 1]))]).toThrow(/after the end/);
  });
});
