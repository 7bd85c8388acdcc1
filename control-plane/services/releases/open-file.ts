import { AppError } from "../../../shared/errors.ts";
import type { ReleaseFile } from "../../../shared/protocol/release.ts";
import type { Context } from "../context.ts";

/**
 * One file of a release, as a stream from byte `from` on, or from the first when the file has no such byte. Anyone may:
 * there is nothing secret in it. Throws `not_found`.
 */
export async function openReleaseFile(
  ctx: Context,
  version: string,
  name: string,
  asked: number,
): Promise<ReleaseFile & { body: ReadableStream<Uint8Array>; from: number }> {
  const { releases } = ctx.ports;
  let from = asked;
  let file = await releases.open(version, name, from);
  if (file !== undefined && from >= file.size) {
    await file.body.cancel();
    from = 0;
    file = await releases.open(version, name);
  }
  if (file === undefined) throw new AppError("not_found", "There is no such release, or it has no such file.");
  return { ...file, from };
}
