import { generateKeyPairSync, sign } from "node:crypto";
import { releaseSignedBytes } from "../../shared/protocol/release.ts";
import type { Releases } from "../ports/index.ts";

/** Releases of these versions, all signed by one key; those of `unsigned` are not, those of `foreign` by another key. */
export function signedReleases(
  versions: string[],
  { unsigned = [], foreign = [] }: { unsigned?: string[]; foreign?: string[] } = {},
): Releases {
  const [ours, theirs] = [generateKeyPairSync("ed25519"), generateKeyPairSync("ed25519")];
  const files = [{ name: "agent.mjs", size: 1000, sha256: "a".repeat(64) }];
  return {
    versions: async () => [...versions, ...unsigned, ...foreign],
    latest: async () => undefined,
    async signed(version) {
      if (![...versions, ...foreign].includes(version)) return undefined;
      const manifest = JSON.stringify({ version, stateSchema: { writes: 1, reads: 1 }, files });
      const { privateKey } = foreign.includes(version) ? theirs : ours;
      return { manifest, signature: sign(null, releaseSignedBytes(manifest), privateKey).toString("base64") };
    },
    keys: async () => [Buffer.from(ours.publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64")],
    open: async () => undefined,
  };
}
