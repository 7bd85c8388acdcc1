/**
 * Lets a classic pcap stream through record by record until a limit: what has passed is always a whole file, never half
 * a packet. Holds at most one record.
 */
export class PcapGate {
  readonly #maxBytes: number;
  readonly #maxPackets: number;
  #rest: Buffer = Buffer.alloc(0);
  #littleEndian: boolean | undefined;
  bytes = 0;
  packets = 0;
  /** The limit that was reached; nothing passes after it. */
  closedBy: "bytes" | "packets" | undefined;

  constructor(limits: { bytes: number; packets: number | null }) {
    this.#maxBytes = limits.bytes;
    this.#maxPackets = limits.packets ?? Number.POSITIVE_INFINITY;
  }

  /** Takes a piece of the stream and hands back what may pass. Throws TypeError when it is not pcap. */
  feed(piece: Buffer): Buffer {
    if (this.closedBy) return Buffer.alloc(0);
    const data = this.#rest.length === 0 ? piece : Buffer.concat([this.#rest, piece]);
    let end = 0;
    if (this.#littleEndian === undefined) {
      if (data.length < FILE_HEADER) return this.#keep(data, 0);
      this.#littleEndian = endianness(data);
      if (!this.#admit(FILE_HEADER)) return Buffer.alloc(0);
      end = FILE_HEADER;
    }
    while (data.length - end >= RECORD_HEADER) {
      const captured = this.#littleEndian ? data.readUInt32LE(end + 8) : data.readUInt32BE(end + 8);
      if (captured > MAX_CAPTURED) throw new TypeError(`a pcap record claims ${captured} bytes`);
      const size = RECORD_HEADER + captured;
      if (data.length - end < size || !this.#admit(size)) break;
      end += size;
      this.packets++;
      if (this.packets === this.#maxPackets) {
        this.closedBy = "packets";
        break;
      }
    }
    return this.#keep(data, end);
  }

  #admit(size: number): boolean {
    if (this.bytes + size > this.#maxBytes) {
      this.closedBy = "bytes";
      return false;
    }
    this.bytes += size;
    return true;
  }

  #keep(data: Buffer, end: number): Buffer {
    this.#rest = this.closedBy ? Buffer.alloc(0) : data.subarray(end);
    return data.subarray(0, end);
  }
}

const FILE_HEADER = 24;
const RECORD_HEADER = 16;
/** libpcap's own limit (MAXIMUM_SNAPLEN). More means the stream is out of step. */
const MAX_CAPTURED = 262_144;

function endianness(header: Buffer): boolean {
  const little = header.readUInt32LE(0);
  if (little === 0xa1b2c3d4 || little === 0xa1b23c4d) return true;
  const big = header.readUInt32BE(0);
  if (big === 0xa1b2c3d4 || big === 0xa1b23c4d) return false;
  throw new TypeError("not a pcap stream");
}
