import type { Releases } from "../../ports/index.ts";

/** For a process that hands out no agents. */
export function noReleases(): Releases {
  return {
    versions: async () => [],
    latest: async () => undefined,
    signed: async () => undefined,
    keys: async () => [],
    open: async () => undefined,
  };
}
