import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { z } from "zod";

/** Makes a directory that only its owner can look into. */
export function makePrivateDir(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
}

/**
 * Replaces a file so that a crash or a full disk at any point leaves the old or the new content, never a part: write beside
 * it, fsync, rename, fsync the directory. Throws what the file system says; the old content then stands.
 */
export function writeDurable(path: string, content: string, mode = 0o600): void {
  const beside = `${path}.new`;
  // A left-over of a crash may have other permissions; the mode of open() counts only for a file it makes.
  rmSync(beside, { force: true });
  const fd = openSync(beside, "wx", mode);
  try {
    // Goes on until all is written: one write() on a disk that is nearly full takes a part and reports no error.
    writeFileSync(fd, content);
    fsyncSync(fd);
  } catch (error) {
    // The part that fitted would keep the disk full.
    rmSync(beside, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  renameSync(beside, path);
  const dir = openSync(dirname(path), "r");
  try {
    fsyncSync(dir);
  } finally {
    closeSync(dir);
  }
}

export type ReadResult<T> = { kind: "none" } | { kind: "ok"; value: T } | { kind: "corrupt"; why: string };

/** Reads a JSON file of ours. A file that is not there is "none"; one that can't be understood is "corrupt", with the reason. */
export function readJson<S extends z.ZodType>(path: string, schema: S): ReadResult<z.infer<S>> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { kind: "none" };
    return { kind: "corrupt", why: `can't be read: ${(error as Error).message}` };
  }
  return parseJson(text, schema);
}

/** Reads JSON text as {@link readJson} reads a file. */
export function parseJson<S extends z.ZodType>(text: string, schema: S): ReadResult<z.infer<S>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { kind: "corrupt", why: "is not JSON" };
  }
  const result = schema.safeParse(value);
  if (result.success) return { kind: "ok", value: result.data };
  const issue = result.error.issues[0];
  return { kind: "corrupt", why: `${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.trim() };
}
