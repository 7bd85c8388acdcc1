import fc from "fast-check";
import { expect, test } from "vitest";
import { OPTION, type PcapngMeta, pcapToPcapng } from "./pcapng.ts";
import { type PcapngBlock, type PcapngOption, readPcapng } from "./pcapng-read.ts";

const META: PcapngMeta = {
  captureId: "cap_01",
  comment: "why not",
  clockOffsetNs: -1_500_000n,
  interface: { name: "wg0", description: "exit, tunnel", filter: "udp port 53" },
  stats: { received: 12, dropped: 3 },
};

interface Packet {
  seconds: number;
  ticks: number;
  data: Uint8Array;
  originalLength: number;
}

function pcap(packets: readonly Packet[], littleEndian: boolean, nano: boolean, linkType = 101): Uint8Array {
  const out = new Uint8Array(24 + packets.reduce((n, p) => n + 16 + p.data.length, 0));
  const view = new DataView(out.buffer);
  view.setUint32(0, nano ? 0xa1b23c4d : 0xa1b2c3d4, littleEndian);
  view.setUint32(16, 128, littleEndian);
  view.setUint32(20, linkType, littleEndian);
  let at = 24;
  for (const p of packets) {
    view.setUint32(at, p.seconds, littleEndian);
    view.setUint32(at + 4, p.ticks, littleEndian);
    view.setUint32(at + 8, p.data.length, littleEndian);
    view.setUint32(at + 12, p.originalLength, littleEndian);
    out.set(p.data, at + 16);
    at += 16 + p.data.length;
  }
  return out;
}

async function* inPieces(bytes: Uint8Array, step: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += step) yield bytes.slice(at, at + step);
}

async function blocksOf(bytes: Uint8Array, step = 1000, meta = META): Promise<PcapngBlock[]> {
  const blocks: PcapngBlock[] = [];
  for await (const block of readPcapng(pcapToPcapng(inPieces(bytes, step), meta))) blocks.push(block);
  return blocks;
}

const text = (options: PcapngOption[], code: number) =>
  options.filter((o) => o.code === code).map((o) => new TextDecoder().decode(o.value));
const count = (options: PcapngOption[], code: number) => {
  const found = options.find((o) => o.code === code);
  return found && new DataView(found.value.buffer).getBigUint64(0, true);
};

test("any packets survive the way from pcap to pcapng, to the nanosecond, however the stream is cut", async () => {
  const u32 = fc.nat(0xffff_ffff);
  const packet = fc.record({
    seconds: u32,
    ticks: fc.nat(999_999),
    data: fc.uint8Array({ maxLength: 200 }),
    originalLength: u32,
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(packet, { maxLength: 20 }),
      fc.boolean(),
      fc.boolean(),
      fc.integer({ min: 1, max: 300 }),
      async (packets, littleEndian, nano, step) => {
        const blocks = await blocksOf(pcap(packets, littleEndian, nano), step);
        expect(blocks.flatMap((b) => (b.type === "packet" ? [b] : []))).toEqual(
          packets.map((p) => ({
            type: "packet",
            interface: 0,
            timestampNs: BigInt(p.seconds) * 1_000_000_000n + BigInt(p.ticks) * (nano ? 1n : 1000n),
            originalLength: p.originalLength,
            data: p.data,
          })),
        );
        expect(blocks.map((b) => b.type).filter((t) => t !== "packet")).toEqual(["section", "interface", "statistics"]);
      },
    ),
  );
});

test("the file says whose capture it is, where, with which filter, and how far the clock was off", async () => {
  const [section, iface] = await blocksOf(pcap([], true, false, 1));
  if (section?.type !== "section" || iface?.type !== "interface") throw new Error("no head");
  expect(text(section.options, OPTION.comment)).toEqual(["capture cap_01", "why not"]);
  expect(iface).toMatchObject({ linkType: 1, snapLength: 128 });
  expect(text(iface.options, OPTION.ifName)).toEqual(["wg0"]);
  expect(text(iface.options, OPTION.ifDescription)).toEqual(["exit, tunnel"]);
  expect(text(iface.options, OPTION.ifFilter)).toEqual(["\0udp port 53"]);
  expect(text(iface.options, OPTION.comment)).toEqual(["capture cap_01, clock offset -1500000 ns, not taken off"]);
  expect(iface.options.find((o) => o.code === OPTION.ifTsResolution)?.value).toEqual(Uint8Array.of(9));
});

test("the counters come last, with the time of the last packet; asked for only then", async () => {
  const packets = [{ seconds: 5, ticks: 1, data: Uint8Array.of(1, 2, 3), originalLength: 3 }];
  const stats = (await blocksOf(pcap(packets, true, false))).at(-1);
  if (stats?.type !== "statistics") throw new Error("no counters");
  expect(stats.timestampNs).toBe(5_000_001_000n);
  expect(count(stats.options, OPTION.statsReceived)).toBe(12n);
  expect(count(stats.options, OPTION.statsDropped)).toBe(0n);
  expect(count(stats.options, OPTION.statsOsDropped)).toBe(3n);
  const late = await blocksOf(pcap(packets, true, false), 1000, { ...META, stats: async () => undefined });
  expect(late.map((b) => b.type)).toEqual(["section", "interface", "packet"]);
});

test("a stream cut within a packet ends before it", async () => {
  const packets = [1, 2].map((n) => ({ seconds: n, ticks: 0, data: new Uint8Array(50), originalLength: 50 }));
  const bytes = pcap(packets, true, false);
  for (const missing of [1, 49, 50, 60]) {
    const blocks = await blocksOf(bytes.slice(0, bytes.length - missing));
    expect(blocks.filter((b) => b.type === "packet").length).toBe(1);
  }
});

test("what is not pcap is refused", async () => {
  await expect(blocksOf(new Uint8Array(100))).rejects.toThrow(/not a pcap/);
  await expect(blocksOf(new Uint8Array(3))).rejects.toThrow(/not a pcap/);
  const liar = pcap([{ seconds: 0, ticks: 0, data: new Uint8Array(4), originalLength: 4 }], true, false);
  new DataView(liar.buffer).setUint32(32, 0x7fff_ffff, true);
  await expect(blocksOf(liar)).rejects.toThrow(/claims/);
});

test("the head goes out before the first packet", async () => {
  let ask: (() => void) | undefined;
  async function* slow() {
    yield pcap([], true, false);
    await new Promise<void>((resolve) => {
      ask = resolve;
    });
  }
  const out = pcapToPcapng(slow(), META);
  expect((await out.next()).value?.length).toBeGreaterThan(100);
  expect(ask).toBeUndefined();
});
