import fc from "fast-check";
import { expect, test } from "vitest";
import { OPTION } from "./pcapng.ts";
import { mergeToPcapng, type PcapngPoint } from "./pcapng-merge.ts";
import { type PcapngBlock, readPcapng } from "./pcapng-read.ts";

/** A pcap in nanoseconds whose packets carry their own number. */
function pcap(timesNs: readonly number[], linkType = 1): Uint8Array {
  const out = new DataView(new ArrayBuffer(24 + timesNs.length * 20));
  out.setUint32(0, 0xa1b23c4d, true);
  out.setUint32(20, linkType, true);
  for (const [i, ns] of timesNs.entries()) {
    const at = 24 + i * 20;
    out.setUint32(at, Math.floor(ns / 1e9), true);
    out.setUint32(at + 4, ns % 1e9, true);
    out.setUint32(at + 8, 4, true);
    out.setUint32(at + 12, 4, true);
    out.setUint32(at + 16, i, true);
  }
  return new Uint8Array(out.buffer);
}

async function* piece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

const point = (name: string, bytes: Uint8Array, clockOffsetNs: number): PcapngPoint => ({
  source: piece(bytes),
  clockOffsetNs,
  interface: { name, description: name, filter: "" },
  stats: { received: 1, dropped: 0 },
});

async function merged(points: PcapngPoint[]): Promise<PcapngBlock[]> {
  const blocks: PcapngBlock[] = [];
  for await (const block of readPcapng(mergeToPcapng(points, { captureId: "cap_01" }))) blocks.push(block);
  return blocks;
}

test("packets of any points come in the order of corrected time, each with its point, none lost", async () => {
  const times = fc.array(fc.nat(5_000_000_000), { maxLength: 15 }).map((all) => all.sort((a, b) => a - b));
  const points = fc.array(fc.record({ times, offset: fc.integer({ min: -2e9, max: 0 }) }), {
    minLength: 1,
    maxLength: 4,
  });
  await fc.assert(
    fc.asyncProperty(points, async (all) => {
      const blocks = await merged(all.map((p, i) => point(`p${i}`, pcap(p.times), p.offset)));
      const packets = blocks.flatMap((b) => (b.type === "packet" ? [b] : []));
      const expected = all.flatMap((p, i) => p.times.map((t) => ({ point: i, time: BigInt(t - p.offset) })));
      expect(packets.map((p) => p.timestampNs)).toEqual(
        expected.map((e) => e.time).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)),
      );
      for (const [i, p] of all.entries()) {
        const mine = packets.filter((packet) => packet.interface === i);
        expect(mine.map((packet) => packet.timestampNs)).toEqual(p.times.map((t) => BigInt(t - p.offset)));
      }
    }),
  );
});

test("the file names every point, says that times are corrected, and has each one's counters", async () => {
  const blocks = await merged([point("eth0", pcap([5]), 1), point("eth1", pcap([5]), -2)]);
  const interfaces = blocks.flatMap((b) => (b.type === "interface" ? [b] : []));
  const text = (i: number, code: number) =>
    new TextDecoder().decode(interfaces[i]?.options.find((o) => o.code === code)?.value);
  expect([text(0, OPTION.ifName), text(1, OPTION.ifName)]).toEqual(["eth0", "eth1"]);
  expect(text(1, OPTION.comment)).toBe("capture cap_01, clock offset -2 ns, taken off all times");
  expect(blocks.map((b) => b.type).slice(-2)).toEqual(["statistics", "statistics"]);
});

test("points of different link types are refused", async () => {
  await expect(merged([point("eth0", pcap([]), 0), point("wg0", pcap([], 101), 0)])).rejects.toThrow(/link types/);
});
