import { execFile } from "node:child_process";
import { createRequire, findPackageJSON } from "node:module";
import { promisify } from "node:util";

/**
 * Runs the workerd that the test plugin will use, once, for its version. Throws when there is none: the plugin itself waits
 * for ever for one that does not start.
 */
export async function checkWorkerd(): Promise<string> {
  try {
    // Not ours but the plugin's, through its miniflare: there may be others.
    const plugin = createRequire(findPackageJSON("@cloudflare/vitest-plugin", import.meta.url) ?? "");
    const miniflare = createRequire(plugin.resolve("miniflare"));
    const binary = process.env.MINIFLARE_WORKERD_PATH ?? (miniflare("workerd") as { default: string }).default;
    const { stdout } = await promisify(execFile)(binary, ["--version"]);
    return stdout.trim();
  } catch (error) {
    throw new Error("workerd does not run here: run npm ci with optional dependencies (@cloudflare/workerd-…)", {
      cause: error,
    });
  }
}
