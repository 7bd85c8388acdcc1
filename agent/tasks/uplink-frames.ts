/**
 * How a capture travels between two agents, inside TLS: frames of a 4-byte big-endian length and that many bytes; a
 * frame of length 0 is the end. TLS alone can't tell an end from a cut: node reports a closed TCP connection as an end,
 * close_notify or not, and a half capture would pass for a whole one.
 */
export const MAX_UPLINK_FRAME = 1024 * 1024;

/** Offered by neither side's defaults: forward secrecy and no certificates. */
export const UPLINK_TLS = {
  ciphers: "ECDHE-PSK-CHACHA20-POLY1305",
  minVersion: "TLSv1.2",
  maxVersion: "TLSv1.2",
} as const;

/** Header of a frame of this many bytes. 0 is the end. */
export function frameHeader(length: number): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(length);
  return header;
}

/** Reads frames out of a stream: bytes are handed on as they come, not gathered. */
export class FrameReader {
  #header: Buffer = Buffer.alloc(0);
  #left = 0;
  /** The end was said. Anything after it is an error. */
  ended = false;

  /** The payload bytes in this piece. Throws TypeError on a frame too long or bytes after the end. */
  *feed(piece: Buffer): Generator<Buffer> {
    let data = piece;
    while (data.length > 0) {
      if (this.ended) throw new TypeError("bytes after the end of a capture");
      if (this.#left > 0) {
        const part = data.subarray(0, this.#left);
        this.#left -= part.length;
        data = data.subarray(part.length);
        yield part;
        continue;
      }
      const missing = 4 - this.#header.length;
      this.#header = Buffer.concat([this.#header, data.subarray(0, missing)]);
      data = data.subarray(missing);
      if (this.#header.length < 4) return;
      this.#left = this.#header.readUInt32BE(0);
      this.#header = Buffer.alloc(0);
      if (this.#left > MAX_UPLINK_FRAME) throw new TypeError(`an uplink frame of ${this.#left} bytes`);
      this.ended = this.#left === 0;
    }
  }
}
