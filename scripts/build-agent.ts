import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { OutputFile, Plugin } from "esbuild";
import { DEFAULT_STATE_DIR } from "../agent/config.ts";
import { relayTemplateUnit } from "../agent/drivers/services-systemd.ts";
import { STATE_SCHEMA } from "../agent/state-schema.ts";
import {
  AGENT_BUNDLE,
  type ReleaseManifest,
  releaseManifestSchema,
  versionSchema,
} from "../shared/protocol/release.ts";
import { defaultReleaseKey, makeReleaseKey, signRelease } from "./release.ts";

const HELP = `Bundles the agent into one file, for the control plane to hand out, and signs it.

  npm run build:agent                    into dist/agent/<version>/, version as in package.json
  npm run build:agent -- --out DIR       into DIR/<version>/
  npm run build:agent -- --version V     say another version than package.json's
  npm run build:agent -- --entry FILE    another entry (tests of upgrades)
  npm run build:agent -- --key FILE      sign with this release key (see npm run release -- --help)
  npm run build:agent -- --unsigned      sign later, on the machine that has the key; hosts take no unsigned upgrade
`;
const ROOT = resolve(import.meta.dirname, "..");
/** Goes out beside the bundle: what the installer puts on a host, and the installer itself. */
const BESIDE = ["install.sh", "trunkline-agent.service", "gate.sh"];
/** The relays' unit is the driver's own: it writes the files that the unit reads. */
const RELAY_UNIT = "trunkline-relay@.service";

export interface BuildOptions {
  out?: string;
  version?: string;
  entry?: string;
  /** File of the release key that signs it; without, it is unsigned. */
  key?: string;
  /** What its manifest says of the state directory's form, when not what these sources say. */
  stateSchema?: ReleaseManifest["stateSchema"];
}

/**
 * Builds a release. The same sources give the same bytes, whatever the folder or the machine. The folder appears whole or
 * not at all. Throws when esbuild is not installed or the sources do not build.
 */
export async function buildAgent(options: BuildOptions = {}): Promise<{ dir: string; manifest: ReleaseManifest }> {
  const out = resolve(options.out ?? join(ROOT, "dist/agent"));
  const version = versionSchema.parse(options.version ?? packageVersion());
  const dir = join(out, version);
  const draft = `${dir}.new-${process.pid}`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft, { recursive: true });
  try {
    for (const { path, contents } of await bundle(options.entry ?? "agent/main.ts", version))
      writeFileSync(join(draft, basename(path)), contents);
    for (const name of BESIDE) copyFileSync(join(ROOT, "scripts/install", name), join(draft, name));
    writeFileSync(join(draft, RELAY_UNIT), relayTemplateUnit(DEFAULT_STATE_DIR));
    const files = [AGENT_BUNDLE, `${AGENT_BUNDLE}.map`, ...BESIDE, RELAY_UNIT].map((name) => {
      const bytes = readFileSync(join(draft, name));
      return { name, size: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
    });
    const manifest = releaseManifestSchema.parse({ version, stateSchema: options.stateSchema ?? STATE_SCHEMA, files });
    writeFileSync(join(draft, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    if (options.key !== undefined) signRelease(draft, options.key);
    rmSync(dir, { recursive: true, force: true });
    renameSync(draft, dir);
    return { dir, manifest };
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

async function bundle(entry: string, version: string): Promise<OutputFile[]> {
  const { build } = await import("esbuild");
  const { outputFiles } = await build({
    absWorkingDir: ROOT,
    entryPoints: [entry],
    // Always as if here, and written by us: the map names its sources from where it lies.
    outfile: join(ROOT, "dist/agent/agent.mjs"),
    write: false,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node22.18",
    // Names stay, so that a stack in a host's journal can be read without the map.
    minifyWhitespace: true,
    minifySyntax: true,
    sourcemap: "linked",
    define: { TRUNKLINE_VERSION: JSON.stringify(version) },
    // ws asks for these two and goes on without them.
    external: ["bufferutil", "utf-8-validate"],
    plugins: [onlyEnglish, zodByParts, nodeByRequire],
    banner: {
      js: 'import { createRequire as trunklineCreate } from "node:module"; const trunklineRequire = trunklineCreate(import.meta.url), require = trunklineRequire;',
    },
    logLevel: "warning",
  });
  return outputFiles;
}

/** zod brings its messages in fifty languages, and no bundler sees that they are not used. */
export const onlyEnglish: Plugin = {
  name: "only-english",
  setup({ onLoad }) {
    onLoad({ filter: /zod\/v4\/locales\/index\.js$/ }, () => ({
      contents: 'export { default as en } from "./en.js";',
    }));
  },
};

/** As `{ z }` zod is one object with everything in it; as a namespace only what is used of it stays: 2 MB of memory less. */
const zodByParts: Plugin = {
  name: "zod-by-parts",
  setup({ onLoad }) {
    onLoad({ filter: /[\\/](agent|shared)[\\/].*\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, "utf8").replace('import { z } from "zod";', 'import * as z from "zod";'),
      loader: "ts",
    }));
  },
};

/**
 * An `import` of a module of node's runs all its lazy getters (the promises of fs, all of WebCrypto), which `require` leaves
 * alone: 1 MB of memory less.
 */
const nodeByRequire: Plugin = {
  name: "node-by-require",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: "node-by-require" }));
    onLoad({ filter: /.*/, namespace: "node-by-require" }, async ({ path }) => {
      const names = Object.keys(await import(path)).filter((name) => name !== "default");
      const lines = names.map((name) => `export const ${name} = /* @__PURE__ */ take("${name}");`);
      const head = `const all = trunklineRequire("${path}"), take = (name) => all[name];\nexport default all;\n`;
      return { contents: head + lines.join("\n") };
    });
  },
};

function packageVersion(): string {
  return (JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string }).version;
}

async function main(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      help: { type: "boolean", short: "h", default: false },
      out: { type: "string" },
      version: { type: "string" },
      entry: { type: "string" },
      key: { type: "string" },
      unsigned: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { unsigned, help: _, ...options } = values;
  const key = unsigned ? undefined : (values.key ?? defaultReleaseKey());
  if (key !== undefined && values.key === undefined && !existsSync(key)) {
    makeReleaseKey(key);
    process.stdout.write(
      `There was no release key: made ${key}. Hosts installed from this build take upgrades signed by it only:\n` +
        "keep a copy in a safe place, and keep it away from the control plane.\n",
    );
  }
  const { dir, manifest } = await buildAgent({ ...options, ...(key === undefined ? {} : { key }) } as BuildOptions);
  const { size = 0, sha256 } = manifest.files[0] ?? {};
  process.stdout.write(`agent ${manifest.version}: ${Math.round(size / 1024)} kB, sha256 ${sha256}\n${dir}\n`);
  return 0;
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
