import { ByteReader } from "./byte-reader.ts";

/** The classic pcap format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html */

export interface PcapHeader {
  /** LINKTYPE_…: 1 Ethernet, 101 raw IP. */
  linkType: number;
  snapLength: number;
}

export interface PcapPacket {
  /** Nanoseconds since 1970, UTC, by the capturing host's clock. */
  timestampNs: bigint;
  /** Length on the wire; `data` may be shorter. */
  originalLength: number;
  data: Uint8Array;
}

/** Seconds' fractions by the file's magic number. */
const NS_PER_TICK = new Map([
  [0xa1b2c3d4, 1000n],
  [0xa1b23c4d, 1n],
]);
/** libpcap's MAXIMUM_SNAPLEN: a longer record means that the stream is out of step. */
const MAX_CAPTURED = 262_144;

/**
 * Reads pcap of either byte order, with micro- or nanoseconds. The header comes first; packets are read as they are
 * asked for. A stream that ends within a packet ends before it.
 *
 * @throws TypeError when it is not pcap
 */
export async function readPcap(
  source: AsyncIterable<Uint8Array>,
): Promise<{ header: PcapHeader; packets: AsyncGenerator<PcapPacket> }> {
  const reader = new ByteReader(source);
  if (!(await reader.fill(24))) throw new TypeError("not a pcap stream: it ends within its header");
  const view = viewOf(reader.take(24));
  const littleEndian = NS_PER_TICK.has(view.getUint32(0, true));
  const nsPerTick = NS_PER_TICK.get(view.getUint32(0, littleEndian));
  if (nsPerTick === undefined) throw new TypeError("not a pcap stream: unknown magic number");
  const header: PcapHeader = {
    // The upper half holds flags about frame check sequences.
    linkType: view.getUint32(20, littleEndian) & 0xffff,
    snapLength: view.getUint32(16, littleEndian),
  };
  return { header, packets: readPackets(reader, littleEndian, nsPerTick) };
}

async function* readPackets(reader: ByteReader, littleEndian: boolean, nsPerTick: bigint): AsyncGenerator<PcapPacket> {
  try {
    while (reader.available >= 16 || (await reader.fill(16))) {
      const view = viewOf(reader.take(16));
      const seconds = view.getUint32(0, littleEndian);
      const ticks = view.getUint32(4, littleEndian);
      const captured = view.getUint32(8, littleEndian);
      const originalLength = view.getUint32(12, littleEndian);
      if (captured > MAX_CAPTURED) throw new TypeError(`a pcap record claims ${captured} bytes`);
      if (reader.available < captured && !(await reader.fill(captured))) return;
      const timestampNs = BigInt(seconds) * 1_000_000_000n + BigInt(ticks) * nsPerTick;
      yield { timestampNs, originalLength, data: reader.take(captured) };
    }
  } finally {
    await reader.close();
  }
}

/** A view of exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
