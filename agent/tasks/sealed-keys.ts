import { z } from "zod";
import { fromBase64 } from "../../shared/canonical.ts";
import type { Sealed } from "../../shared/protocol/tasks.ts";
import { key32Schema } from "../../shared/protocol/values.ts";
import { type TaskContext, TaskError } from "./types.ts";

const captureKeys = z.object({ psk: key32Schema });
const uplinkKeys = captureKeys.extend({
  uploadToken: z
    .string()
    .min(1)
    .max(512)
    .regex(/^[\x21-\x7e]+$/),
});

/** The capture's key: 32 bytes. Throws TaskError("bad_sealed"), which never repeats what was in it. */
export function openPsk(sealed: Sealed, ctx: TaskContext): { psk: Uint8Array } {
  return { psk: fromBase64(open(captureKeys, sealed, ctx).psk) };
}

/** The uplink's key and its bearer token for the upload. */
export function openUplinkKeys(sealed: Sealed, ctx: TaskContext): { psk: Uint8Array; uploadToken: string } {
  const { psk, uploadToken } = open(uplinkKeys, sealed, ctx);
  return { psk: fromBase64(psk), uploadToken };
}

function open<T>(schema: z.ZodType<T>, sealed: Sealed, ctx: TaskContext): T {
  const text = new TextDecoder().decode(ctx.openSealed(sealed));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new TaskError("bad_sealed", "what was sealed is not JSON");
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new TaskError("bad_sealed", "what was sealed holds other keys than this task needs");
  return parsed.data;
}
