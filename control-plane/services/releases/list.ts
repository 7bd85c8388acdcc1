import { z } from "zod";
import type { Context } from "../context.ts";

export const releaseView = z.object({
  version: z.string(),
  /** Hosts take signed ones only. */
  signed: z.boolean(),
});

/** The agent's versions that this control plane can hand out, the newest first. */
export async function listReleases(ctx: Context): Promise<{ items: z.infer<typeof releaseView>[] }> {
  const { releases } = ctx.ports;
  const versions = (await releases.versions()).reverse();
  const items = await Promise.all(
    versions.map(async (version) => ({ version, signed: (await releases.signed(version)) !== undefined })),
  );
  return { items };
}
