import { z } from "zod";
import { key32Schema, sha256Schema } from "./values.ts";

/** What a build of the agent is: shared by who builds it, who hands it out, and who installs it. */

/** Three numbers, and a pre-release word at most: it becomes a folder's name. */
export const versionSchema = z
  .string()
  .max(64)
  .regex(/^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z]+([.-][0-9A-Za-z]+)*)?$/);

/** A file of a release: a plain name, no path. */
export const releaseFileNameSchema = z
  .string()
  .max(64)
  .regex(/^[A-Za-z0-9][A-Za-z0-9@._-]*$/);

export const releaseFileSchema = z.object({
  name: releaseFileNameSchema,
  size: z.number().int().positive(),
  sha256: sha256Schema,
});
export type ReleaseFile = z.infer<typeof releaseFileSchema>;

export const releaseManifestSchema = z.object({
  version: versionSchema,
  /** Form of the state directory that this agent writes, and the oldest that it reads. */
  stateSchema: z.object({ writes: z.number().int().positive(), reads: z.number().int().positive() }),
  files: z.array(releaseFileSchema).min(1).max(32),
});
export type ReleaseManifest = z.infer<typeof releaseManifestSchema>;

/** The file of a release that an upgrade brings; everything else is the installer's. */
export const AGENT_BUNDLE = "agent.mjs";
/** Largest bundle that a host takes, in bytes. */
export const MAX_BUNDLE = 64 * 1024 * 1024;
/** A manifest as text, at most so long. It is signed and passed on as that text: whoever adds a member later breaks no old signature. */
export const manifestTextSchema = z.string().max(16 * 1024);

/** The bytes that a release key signs: a purpose, NUL, the manifest's text exactly as it stands in its file. */
export function releaseSignedBytes(manifestText: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`trunkline.release.v1\0${manifestText}`);
}

/** A manifest out of its text. Throws an error that says what is wrong with it. */
export function parseManifest(text: string): ReleaseManifest {
  return releaseManifestSchema.parse(JSON.parse(text));
}

/**
 * The public halves of release keys out of a `release.pub` file: one a line, 32 bytes in base 64; lines that begin with #
 * are comments. More than one while a key is being replaced. Throws when a line is no key.
 */
export function parseReleaseKeys(text: string): string[] {
  const lines = text.split("\n").map((line) => line.trim());
  return lines.filter((line) => line !== "" && !line.startsWith("#")).map((line) => key32Schema.parse(line));
}

/** Orders versions, the older first; a pre-release before its release. */
export function compareVersions(a: string, b: string): number {
  const parts = (version: string) => {
    const [numbers = "", ...pre] = version.split("-");
    return { numbers: numbers.split(".").map(Number), pre: pre.join("-") };
  };
  const [x, y] = [parts(a), parts(b)];
  for (let i = 0; i < 3; i++) {
    const difference = (x.numbers[i] ?? 0) - (y.numbers[i] ?? 0);
    if (difference !== 0) return difference;
  }
  if (x.pre === y.pre) return 0;
  if (x.pre === "" || y.pre === "") return x.pre === "" ? 1 : -1;
  return x.pre < y.pre ? -1 : 1;
}
