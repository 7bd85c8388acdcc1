import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "./config.ts";
import { readJson, writeDurable } from "./durable-file.ts";

/**
 * The form of the files in the state directory: which one this agent writes, and the oldest it still reads. Raise
 * `writes` with every change that an older agent would misread.
 *
 * 2: `state.json` has items as they came, also of kinds that agents of form 1 do not know; those took the whole file for damaged.
 */
export const STATE_SCHEMA = { writes: 2, reads: 1 } as const;

const fileSchema = z.object({ stateSchema: z.number().int().positive() });

/** The form of a state directory. Before there was such a file it was 1; a damaged one says nothing, and its neighbours are checked by themselves. */
export function formOf(dir: string): number {
  const found = readJson(join(dir, "schema.json"), fileSchema);
  return found.kind === "ok" ? found.value.stateSchema : 1;
}

/**
 * Refuses a state directory of another age, before anything in it is touched: an older agent that took a newer one's
 * files for damaged would start from nothing. Notes our own form in it. Throws {@link UsageError}.
 */
export function claimStateDir(dir: string, ours: { writes: number; reads: number } = STATE_SCHEMA): void {
  const path = join(dir, "schema.json");
  const schema = formOf(dir);
  if (schema > ours.writes)
    throw new UsageError(
      `${dir} was written by a newer agent (form ${schema}, this one knows ${ours.writes}). Nothing was changed. ` +
        "Install that agent's version or a newer one.",
    );
  if (schema < ours.reads)
    throw new UsageError(
      `${dir} was written by an agent too old for this one (form ${schema}, read from ${ours.reads} on). ` +
        "Nothing was changed. Upgrade by way of a version in between.",
    );
  if (readJson(path, fileSchema).kind !== "ok" || schema !== ours.writes)
    writeDurable(path, `${JSON.stringify({ stateSchema: ours.writes })}\n`);
}
