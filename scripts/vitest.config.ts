import { defineConfig } from "vitest/config";

/**
 * Four kinds of test, told apart by their name:
 *   *.test.ts       unit: seconds, no root, no services (`npm run verify`)
 *   *.int.test.ts   integration: a real database on disk, real processes
 *   *.lab.test.ts   lab: network namespaces and the real tools; needs root
 *   contract/       the HTTP API's contract, once on Node and once in workerd (its own configuration)
 */
export default defineConfig({
  test: {
    // Two files at a time, also on a machine of two cores: most tests wait for others more than they compute.
    maxWorkers: 2,
    projects: [
      {
        test: {
          name: "unit",
          include: ["{control-plane,agent,shared,scripts}/**/*.test.ts"],
          exclude: ["**/*.int.test.ts", "**/*.lab.test.ts"],
          // Not how fast they should be: a machine with other work must not fail them.
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: "integration",
          include: ["{control-plane,agent,shared,scripts}/**/*.int.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: "lab",
          include: ["{control-plane,agent,shared,scripts}/**/*.lab.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 120_000,
          // Tunnels in user space on two cores lose a packet now and then when something else has the machine. In CI a test
          // that failed is run once more, and the report says so; what is broken fails twice.
          retry: process.env.CI ? 1 : 0,
        },
      },
    ],
  },
});
