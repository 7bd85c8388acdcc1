import type { Releases } from "../../ports/index.ts";

/** For a process that hands out no agents. */
export function noReleases(): Releases {
  return { latest: async () => undefined, open: async () => undefined };
}
