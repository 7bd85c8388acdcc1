/** Takes exact lengths out of a stream of pieces. Holds what one `fill` asked for and at most one piece more. */
export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #held: Uint8Array = new Uint8Array(0);
  #at = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Bytes that can be taken without waiting. */
  get available(): number {
    return this.#held.length - this.#at;
  }

  /** Waits until `count` bytes can be taken. False when the stream ends before. */
  async fill(count: number): Promise<boolean> {
    if (this.available >= count) return true;
    const pieces = [this.#held.subarray(this.#at)];
    let size = this.available;
    while (size < count) {
      const { value, done } = await this.#source.next();
      if (done) break;
      pieces.push(value);
      size += value.length;
    }
    this.#held = new Uint8Array(size);
    this.#at = 0;
    let at = 0;
    for (const piece of pieces) {
      this.#held.set(piece, at);
      at += piece.length;
    }
    return size >= count;
  }

  /** The next `count` bytes, valid until the next `fill`. Throws RangeError when they are not there. */
  take(count: number): Uint8Array {
    if (this.available < count) throw new RangeError("took more bytes than were filled");
    this.#at += count;
    return this.#held.subarray(this.#at - count, this.#at);
  }

  /** Tells the source that nothing more will be read. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
