/**
 * What `npm start` runs: the bundle, when one was built of exactly these sources and this lock file, and otherwise the sources
 * themselves, which take longer to load and can never be out of date. Plain JavaScript, so that nothing is compiled before.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const ROOT = resolve(import.meta.dirname, "../..");
const BUILT = join(ROOT, "dist/control-plane");

/** True when every file that the bundle was made of, and the bundle itself, is what it was then. */
function isFresh() {
  try {
    const inputs = Object.entries(JSON.parse(readFileSync(join(BUILT, "inputs.json"), "utf8")));
    return inputs.every(
      ([path, sha256]) =>
        createHash("sha256")
          .update(readFileSync(join(ROOT, path)))
          .digest("hex") === sha256,
    );
  } catch {
    // Nothing was built, or a file of it is gone.
    return false;
  }
}

await import(isFresh() ? pathToFileURL(join(BUILT, "server.mjs")).href : "./node.ts");
