import { defineConfig } from "vitest/config";

/** The contract of the HTTP API on Node, with a libSQL file. */
export default defineConfig({
  test: {
    name: "contract on node",
    include: ["control-plane/contract/on-node.ts"],
    globalSetup: ["scripts/contract/start-node.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // A contract that found nothing to test has not been kept.
    passWithNoTests: false,
  },
});
