import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** Fixed, so that a run can be repeated; it signs nothing that anyone keeps. */
const SIGNING_KEY = Buffer.alloc(32, 7).toString("base64");

/** The contract of the HTTP API in workerd, with a libSQL server. */
export default defineConfig({
  plugins: [
    cloudflareTest(({ inject }) => ({
      wrangler: { configPath: "./wrangler.toml" },
      miniflare: { bindings: { DATABASE_URL: inject("databaseUrl"), SIGNING_KEY } },
    })),
  ],
  test: {
    name: "contract in workerd",
    include: ["control-plane/contract/on-workerd.ts"],
    globalSetup: ["scripts/contract/start-edge.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // The worker logs each request: shown where a test failed, noise otherwise.
    silent: "passed-only",
    passWithNoTests: false,
  },
});
