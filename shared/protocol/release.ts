import { z } from "zod";
import { sha256Schema } from "./values.ts";

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
