import { AppError } from "../../../shared/errors.ts";
import type { ReleaseFile } from "../../../shared/protocol/release.ts";
import type { Context } from "../context.ts";

/** One file of a release, as a stream. Anyone may: there is nothing secret in it. Throws `not_found`. */
export async function openReleaseFile(
  ctx: Context,
  version: string,
  name: string,
): Promise<ReleaseFile & { body: ReadableStream<Uint8Array> }> {
  const file = await ctx.ports.releases.open(version, name);
  if (file === undefined) throw new AppError("not_found", "There is no such release, or it has no such file.");
  return file;
}
