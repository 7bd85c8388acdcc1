import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const HELP = `Usage: npm run lock [-- --check]

Completes package-lock.json after "npm install" ran against a registry that lacks the packages of some platforms: npm
leaves those out, and "npm ci" then refuses the lock file everywhere. Adds the entries without installing anything.

  --check   only report; exits 1 when an entry is missing
`;

type Entry = {
  version?: string;
  dev?: boolean;
  optional?: boolean;
  os?: string[];
  cpu?: string[];
  libc?: string[];
  optionalDependencies?: Record<string, string>;
};
export type Lock = { packages: Record<string, Entry> };

/** Entries that optional dependencies of an exact version need and the lock file does not have, by path. */
export function missingEntries(lock: Lock): Record<string, Entry> {
  const missing: Record<string, Entry> = {};
  for (const [path, entry] of Object.entries(lock.packages)) {
    const wanted = Object.entries(entry.optionalDependencies ?? {}).filter(([, version]) => /^[0-9]/.test(version));
    if (path === "") continue;
    for (const [name, version] of wanted) {
      const found = resolve(lock, path, name);
      if (found !== undefined && lock.packages[found]?.version === version) continue;
      // Beside a sibling of the same version: two versions of one tool have their packages in two places.
      const sibling = wanted
        .map(([other]) => resolve(lock, path, other))
        .find((other) => other !== undefined && lock.packages[other]?.version === version);
      const folder = sibling?.slice(0, sibling.lastIndexOf("node_modules/")) ?? `${path}/`;
      const at = `${folder}node_modules/${name}`;
      missing[at] = { version, ...platformOf(name), ...(entry.dev ? { dev: true } : {}), optional: true };
    }
  }
  return missing;
}

/** Where node would find a package from that path. */
function resolve(lock: Lock, from: string, name: string): string | undefined {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf("node_modules/") - 1))) {
    const path = at === "" ? `node_modules/${name}` : `${at}/node_modules/${name}`;
    if (path in lock.packages) return path;
    if (at === "") return undefined;
  }
}

/** The platform that a package's name says, as npm writes it. */
function platformOf(name: string): Pick<Entry, "os" | "cpu" | "libc"> {
  const os = /android|darwin|win32|freebsd/.exec(name)?.[0] ?? (name.includes("windows") ? "win32" : "linux");
  const cpu = name.includes("arm64") ? "arm64" : "x64";
  return { os: [os], cpu: [cpu], ...(name.includes("musl") ? { libc: ["musl"] } : {}) };
}

function main(argv: readonly string[]): number {
  if (argv.includes("--help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const file = join(import.meta.dirname, "../package-lock.json");
  const lock = JSON.parse(readFileSync(file, "utf8")) as Lock;
  const missing = missingEntries(lock);
  const paths = Object.keys(missing);
  for (const path of paths) process.stdout.write(`missing: ${path}\n`);
  if (argv.includes("--check")) return paths.length === 0 ? 0 : 1;
  lock.packages = Object.fromEntries(
    Object.entries({ ...lock.packages, ...missing }).sort(([a], [b]) => (a < b ? -1 : 1)),
  );
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  return 0;
}

if (import.meta.main) process.exitCode = main(process.argv.slice(2));
