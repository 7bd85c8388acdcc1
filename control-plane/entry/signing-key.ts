import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { freshSigningSeed } from "../adapters/signer/webcrypto.ts";
import type { Random } from "../ports/index.ts";

/**
 * The signing key of an embedded control plane: read from `signing.key` in its data directory, made there (0600) on first
 * start. Agents pin its public half, so it must outlive the database: keep it with the backups.
 */
export async function keptSigningKey(dataDir: string, random: Random): Promise<string> {
  const path = join(dataDir, "signing.key");
  try {
    // `wx`: of two processes that start at once, one makes the key and the other reads it.
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(`${freshSigningSeed(random)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  return (await readFile(path, "utf8")).trim();
}
