import { ByteReader } from "./byte-reader.ts";
import { type PcapPacket, viewOf } from "./pcap.ts";
import { BLOCK } from "./pcapng.ts";

/** An option of a block: its code means different things in different blocks. */
export interface PcapngOption {
  code: number;
  value: Uint8Array;
}

/** What a pcapng stream holds, block by block. */
export type PcapngBlock =
  | { type: "section"; options: PcapngOption[] }
  | { type: "interface"; linkType: number; snapLength: number; options: PcapngOption[] }
  | ({ type: "packet"; interface: number } & PcapPacket)
  | { type: "statistics"; interface: number; timestampNs: bigint; options: PcapngOption[] };

/** Larger than any block we write. */
const MAX_BLOCK = 1024 * 1024;

/**
 * Reads what {@link ./pcapng.ts} writes: little-endian, times in nanoseconds. Blocks of other types are passed over. A
 * stream that ends within a block ends before it. For tests, and for viewers of a live capture.
 *
 * @throws TypeError on anything that is not such a stream
 */
export async function* readPcapng(source: AsyncIterable<Uint8Array>): AsyncGenerator<PcapngBlock> {
  const reader = new ByteReader(source);
  let first = true;
  while (await reader.fill(8)) {
    const head = viewOf(reader.take(8));
    const type = head.getUint32(0, true);
    const total = head.getUint32(4, true);
    if (first && type !== BLOCK.section) throw new TypeError("not a pcapng stream");
    first = false;
    if (total < 12 || total > MAX_BLOCK || total % 4 !== 0) throw new TypeError(`a pcapng block of ${total} bytes`);
    if (!(await reader.fill(total - 8))) return;
    const body = reader.take(total - 8);
    if (viewOf(body).getUint32(total - 12, true) !== total) throw new TypeError("a pcapng block's two lengths differ");
    const block = parseBlock(type, body.subarray(0, total - 12));
    if (block) yield block;
  }
}

function parseBlock(type: number, body: Uint8Array): PcapngBlock | undefined {
  const view = viewOf(body);
  switch (type) {
    case BLOCK.section:
      if (view.getUint32(0, true) !== 0x1a2b3c4d) throw new TypeError("a big-endian pcapng section");
      return { type: "section", options: options(body.subarray(16)) };
    case BLOCK.interface: {
      const [linkType, snapLength] = [view.getUint16(0, true), view.getUint32(4, true)];
      return { type: "interface", linkType, snapLength, options: options(body.subarray(8)) };
    }
    case BLOCK.packet: {
      const captured = view.getUint32(12, true);
      return {
        type: "packet",
        interface: view.getUint32(0, true),
        timestampNs: time(view, 4),
        originalLength: view.getUint32(16, true),
        data: body.slice(20, 20 + captured),
      };
    }
    case BLOCK.statistics: {
      const iface = view.getUint32(0, true);
      return { type: "statistics", interface: iface, timestampNs: time(view, 4), options: options(body.subarray(12)) };
    }
    default:
      return undefined;
  }
}

function time(view: DataView, at: number): bigint {
  return (BigInt(view.getUint32(at, true)) << 32n) | BigInt(view.getUint32(at + 4, true));
}

function options(bytes: Uint8Array): PcapngOption[] {
  const view = viewOf(bytes);
  const found: PcapngOption[] = [];
  for (let at = 0; at + 4 <= bytes.length; ) {
    const code = view.getUint16(at, true);
    const length = view.getUint16(at + 2, true);
    if (code === 0) break;
    found.push({ code, value: bytes.slice(at + 4, at + 4 + length) });
    at += 4 + ((length + 3) & ~3);
  }
  return found;
}
