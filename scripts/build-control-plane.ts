import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { onlyEnglish } from "./build-agent.ts";

const HELP = `Bundles the control plane into one file, which "npm start" then runs: it is ready in a fraction of the time.

  npm run build:control-plane            into dist/control-plane/

Build again after a change of the sources or of what is installed; until then npm start runs the sources.
`;
const ROOT = resolve(import.meta.dirname, "..");
const OUT = "dist/control-plane";

/** Bundles a program that starts the control plane, as one file to lie in `outfile`'s folder, two below `root`. */
export async function bundle(entry: string, outfile: string, root = ROOT) {
  const { build } = await import("esbuild");
  return build({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile: join(root, outfile),
    write: false,
    metafile: true,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node22.18",
    minifySyntax: true,
    // The database is a native module, and ws asks for the other two and goes on without them.
    external: ["libsql", "bufferutil", "utf-8-validate"],
    plugins: [onlyEnglish],
    // CommonJS packages in the bundle require node's own modules.
    banner: {
      js: 'import { createRequire as trunklineRequire } from "node:module"; const require = trunklineRequire(import.meta.url);',
    },
    logLevel: "warning",
  });
}

/** Builds the bundle and the list of what it was made of. Throws when esbuild is not installed or the sources do not build. */
export async function buildControlPlane(root = ROOT): Promise<{ path: string; size: number }> {
  const path = join(root, OUT, "server.mjs");
  const { outputFiles, metafile } = await bundle("control-plane/entry/node.ts", `${OUT}/server.mjs`, root);
  const [file] = outputFiles;
  if (file === undefined) throw new Error("esbuild wrote nothing");
  // The lock file stands for all that comes from node_modules.
  const sources = Object.keys(metafile.inputs).filter((path) => !path.includes("node_modules/"));
  const inputs = Object.fromEntries(
    [...sources, "package-lock.json"].map((path) => [path, sha256(readFileSync(join(root, path)))]),
  );
  inputs[`${OUT}/server.mjs`] = sha256(file.contents);
  mkdirSync(join(root, OUT), { recursive: true });
  // No start finds a bundle and the list of another.
  rmSync(join(root, OUT, "inputs.json"), { force: true });
  replace(path, file.contents);
  replace(join(root, OUT, "inputs.json"), JSON.stringify(inputs, null, 1));
  return { path, size: file.contents.length };
}

function replace(path: string, contents: Uint8Array | string): void {
  const draft = `${path}.new-${process.pid}`;
  writeFileSync(draft, contents);
  renameSync(draft, path);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function main(argv: string[]): Promise<number> {
  const { values } = parseArgs({ args: argv, options: { help: { type: "boolean", short: "h", default: false } } });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { path, size } = await buildControlPlane();
  process.stdout.write(`control plane: ${Math.round(size / 1024)} kB\n${path}\n`);
  return 0;
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
