import type { Id } from "../../../shared/ids.ts";
import type { Context } from "../context.ts";
import { cancelTasks } from "../tasks/ask.ts";
import { failCapture } from "./finish.ts";

/**
 * Past its deadline a capture counts as failed, so that its host is free again: the process that ran it died, or a host of
 * it hangs. What is left of it on the hosts is cancelled, and a process that still waits for it hears so.
 */
export async function failOverdueCapture(ctx: Context, id: Id<"cap">): Promise<void> {
  await failCapture(ctx, id, "it did not end in its time");
  await cancelTasks(ctx, { subject: id });
}
