import type { Bus } from "../../ports/index.ts";

/** For a process that is alone. */
export function noBus(): Bus {
  return { publish: () => {}, subscribe: () => {}, close: async () => {} };
}
