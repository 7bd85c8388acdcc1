import { fromBase64, sha256Hex, toBase64 } from "../../../shared/canonical.ts";
import type { Random, Signer } from "../../ports/index.ts";

/** PKCS #8 of an Ed25519 private key up to its 32-byte seed (RFC 8410). */
const PKCS8_PREFIX = Uint8Array.from([0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20]);

/**
 * The signing key by WebCrypto, which Node and Workers both have. `seed` is the configuration secret: 32 bytes in base 64.
 * The key id is the first 16 hex digits of the public key's SHA-256.
 */
export async function webcryptoSigner(seed: string): Promise<Signer> {
  const key = await crypto.subtle.importKey("pkcs8", ed25519Pkcs8(seed), "Ed25519", true, ["sign"]);
  const { x } = (await crypto.subtle.exportKey("jwk", key)) as { x: string };
  const publicBytes = fromBase64(x.replaceAll("-", "+").replaceAll("_", "/"));
  return {
    keyId: (await sha256Hex(publicBytes)).slice(0, 16),
    publicKey: toBase64(publicBytes),
    sha256: sha256Hex,
    sign: async (message) => toBase64(new Uint8Array(await crypto.subtle.sign("Ed25519", key, message))),
  };
}

/** The private key of a seed in PKCS #8. Throws when the seed is not 32 bytes in base 64. */
export function ed25519Pkcs8(seed: string): Uint8Array<ArrayBuffer> {
  const bytes = fromBase64(seed);
  if (bytes.length !== 32) throw new RangeError("the signing key must be 32 bytes in base 64");
  return new Uint8Array([...PKCS8_PREFIX, ...bytes]);
}

export function freshSigningSeed(random: Random): string {
  return toBase64(random.bytes(32));
}
