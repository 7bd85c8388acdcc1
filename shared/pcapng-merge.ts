import { type PcapPacket, readPcap } from "./pcap.ts";
import { interfaceBlock, join, type PcapngMeta, packetBlock, sectionBlock, statisticsBlock } from "./pcapng.ts";

/** One point of a capture: its pcap, and what the file says of it. */
export type PcapngPoint = Pick<PcapngMeta, "clockOffsetNs" | "interface" | "stats"> & {
  source: AsyncIterable<Uint8Array>;
};

interface Head {
  index: number;
  packet: PcapPacket;
  /** By the control plane's clock. */
  time: bigint;
}

const BATCH = 64 * 1024;

/**
 * Merges points into one pcapng, packets in the order of corrected time: each clock's offset is taken off, so that a packet
 * seen at two points shows how long it took between them. Holds one packet a point and a batch.
 *
 * @throws TypeError when a source is not pcap, or when link types differ: libpcap's readers refuse such a file, so
 *   tunnels go into a file of their own
 */
export async function* mergeToPcapng(
  points: readonly PcapngPoint[],
  meta: Pick<PcapngMeta, "captureId" | "comment">,
): AsyncGenerator<Uint8Array> {
  const opened = await Promise.all(points.map((point) => readPcap(point.source)));
  if (new Set(opened.map(({ header }) => header.linkType)).size > 1) {
    throw new TypeError("points of different link types can't share a file");
  }
  const offsets = points.map((point) => BigInt(point.clockOffsetNs));
  const next = async (index: number): Promise<Head | undefined> => {
    const { value, done } = (await opened[index]?.packets.next()) ?? { done: true };
    return done || !value ? undefined : { index, packet: value, time: value.timestampNs - (offsets[index] ?? 0n) };
  };
  yield join([
    sectionBlock(meta),
    ...opened.flatMap(({ header }, i) => {
      const point = points[i];
      return point ? [interfaceBlock(header, { ...meta, ...point }, true)] : [];
    }),
  ]);

  const heads = (await Promise.all(points.map((_, index) => next(index)))).filter((head) => head !== undefined);
  const last = points.map(() => 0n);
  let batch: Uint8Array[] = [];
  let size = 0;
  while (heads.length > 0) {
    // A capture has a handful of points: looking at each costs less than a heap.
    let first = 0;
    for (const [i, head] of heads.entries()) if (head.time < (heads[first]?.time ?? 0n)) first = i;
    const head = heads[first];
    if (!head) break;
    const block = packetBlock(head.index, { ...head.packet, timestampNs: head.time });
    last[head.index] = head.time;
    batch.push(block);
    size += block.length;
    const following = await next(head.index);
    if (following) heads[first] = following;
    else heads.splice(first, 1);
    if (size >= BATCH) {
      yield join(batch);
      batch = [];
      size = 0;
    }
  }
  for (const [i, point] of points.entries()) {
    const stats = typeof point.stats === "function" ? await point.stats() : point.stats;
    if (stats) batch.push(statisticsBlock(i, last[i] ?? 0n, stats));
  }
  if (batch.length > 0) yield join(batch);
}
