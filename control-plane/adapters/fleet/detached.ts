import { AppError } from "../../../shared/errors.ts";
import type { Fleet } from "../../ports/index.ts";

/** For a process that holds no agent links: wake-ups are dropped (hosts see the change when they next ask), tasks refused. */
export function detachedFleet(): Fleet {
  return {
    wake: () => {},
    waitApplied: async (targets) => targets.map(() => false),
    isLinked: () => false,
    wakeTasks: () => {},
    // biome-ignore lint/correctness/useYield: it never has anything to yield
    async *runTask() {
      throw new AppError("links_elsewhere");
    },
  };
}
