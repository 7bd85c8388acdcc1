import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { appendFile, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { ReadableStream as WebStream } from "node:stream/web";
import { AppError } from "../../../shared/errors.ts";
import type { CaptureStore } from "../../ports/index.ts";
import { Fifo } from "../database/fifo.ts";

/** Captures as files of one directory: `<id>.part` while the upload runs, `<id>.pcapng` when it is finished. */
export async function directoryCaptures(directory: string): Promise<CaptureStore> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const raw = (id: string) => join(directory, `${id}.part`);
  const final = (id: string) => join(directory, `${id}.pcapng`);
  const appends = new Map<string, Fifo>();

  return {
    async rawSize(id) {
      return sizeOf(raw(id));
    },
    append(id, offset, chunk) {
      let fifo = appends.get(id);
      if (fifo === undefined) {
        fifo = new Fifo();
        appends.set(id, fifo);
      }
      return fifo.run(async () => {
        const size = await sizeOf(raw(id));
        if (size !== offset) throw new AppError("offset_mismatch", `${size} bytes are stored`, { offset: size });
        await appendFile(raw(id), chunk, { mode: 0o600 });
        return size + chunk.length;
      });
    },
    readRaw: (id) => createReadStream(raw(id)),
    async finish(id, file) {
      const hash = createHash("sha256");
      let size = 0;
      const temporary = `${final(id)}.tmp`;
      const counted = async function* () {
        for await (const chunk of file) {
          hash.update(chunk);
          size += chunk.length;
          yield chunk;
        }
      };
      await pipeline(counted, createWriteStream(temporary, { mode: 0o600 }));
      const handle = await open(temporary);
      await handle.sync();
      await handle.close();
      await rename(temporary, final(id));
      await rm(raw(id), { force: true });
      appends.delete(id);
      return { size, sha256: hash.digest("hex") };
    },
    async open(id) {
      await stat(final(id));
      return WebStream.from(read(final(id))) as unknown as ReadableStream<Uint8Array>;
    },
    async remove(id) {
      appends.delete(id);
      await rm(raw(id), { force: true });
      await rm(final(id), { force: true });
    },
  };
}

/** Opens the file when the first chunk is asked for: a HEAD request asks for none, and nobody would close it. */
async function* read(path: string): AsyncGenerator<Uint8Array> {
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) yield chunk as Buffer;
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}
