import type { Id } from "../../../shared/ids.ts";
import type { Context } from "../context.ts";
import { failCapture } from "./finish.ts";

/** The process that ran a capture died with it: past its deadline the row is closed, so that its host is free again. */
export async function failOverdueCapture(ctx: Context, id: Id<"cap">): Promise<void> {
  ctx.ports.running.stop(id);
  await failCapture(ctx, id, "it did not end in its time");
}
