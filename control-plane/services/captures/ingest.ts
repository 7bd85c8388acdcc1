import { and, eq } from "drizzle-orm";
import { sha256Hex } from "../../../shared/canonical.ts";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Context } from "../context.ts";
import { isToken } from "../secrets.ts";
import { TICKET_SLACK_BYTES } from "./limits.ts";

/** The running capture that an upload token belongs to. Throws `unauthenticated`. */
async function runningCapture(ctx: Context, id: Id<"cap">, token: string | undefined) {
  if (token === undefined || !isToken(token, "up")) throw new AppError("unauthenticated");
  const [row] = await ctx.ports.db.read
    .select()
    .from(t.captures)
    .where(
      and(
        eq(t.captures.id, id),
        eq(t.captures.uploadTokenHash, await sha256Hex(token)),
        eq(t.captures.state, "running"),
      ),
    );
  if (row === undefined) throw new AppError("unauthenticated");
  return row;
}

/** Bytes stored so far, for a sender that resumes. */
export async function uploadOffset(ctx: Context, id: Id<"cap">, token: string | undefined): Promise<number> {
  await runningCapture(ctx, id, token);
  return ctx.ports.captures.rawSize(id);
}

/** Appends a chunk at exactly that offset. Throws `unauthenticated`, `offset_mismatch`, `body_too_large`. */
export async function appendUpload(
  ctx: Context,
  id: Id<"cap">,
  token: string | undefined,
  offset: number,
  chunk: Uint8Array,
): Promise<{ size: number }> {
  const capture = await runningCapture(ctx, id, token);
  if (offset + chunk.length > capture.maxBytes + TICKET_SLACK_BYTES) throw new AppError("body_too_large");
  return { size: await ctx.ports.captures.append(id, offset, chunk) };
}
