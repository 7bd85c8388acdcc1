import type { Running } from "../../ports/index.ts";

/** Long work of this process, by name. */
export function inProcessRunning(): Running & { stopAll(): void } {
  const controllers = new Map<string, AbortController>();
  return {
    start(name) {
      const controller = new AbortController();
      controllers.set(name, controller);
      return controller.signal;
    },
    stop(name) {
      const controller = controllers.get(name);
      controller?.abort();
      return controller !== undefined;
    },
    end(name) {
      controllers.delete(name);
    },
    stopAll() {
      for (const controller of controllers.values()) controller.abort();
    },
  };
}
