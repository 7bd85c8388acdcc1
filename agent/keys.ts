import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";
import nacl from "tweetnacl";
import { z } from "zod";
import { canonicalJson, fromBase64, toBase64 } from "../shared/canonical.ts";
import type { Sealed } from "../shared/protocol/tasks.ts";
import { key32Schema } from "../shared/protocol/values.ts";
import { TaskError } from "./tasks/types.ts";

/** A private key with its public half, both raw and in base 64 (the form `wg` and our frames use). */
const pairSchema = z.object({ privateKey: key32AnySchema(), publicKey: key32Schema });
export type KeyPair = z.infer<typeof pairSchema>;

/** What identifies a host: made once, kept in the state directory, the private halves go nowhere. */
export const keysSchema = z.object({ identity: pairSchema, box: pairSchema, wireguard: pairSchema.nullable() });
export type Keys = z.infer<typeof keysSchema>;

function key32AnySchema() {
  return z.string().regex(/^[A-Za-z0-9+/]{43}=$/, "must be 32 bytes in base 64");
}

const fromUrl = (text: string | undefined) => Buffer.from(text ?? "", "base64url").toString("base64");
const toUrl = (text: string) => Buffer.from(text, "base64").toString("base64url");

function makePair(curve: "ed25519" | "x25519"): KeyPair {
  // The overloads of generateKeyPairSync don't take a union.
  const { privateKey } = curve === "ed25519" ? generateKeyPairSync("ed25519") : generateKeyPairSync("x25519");
  const jwk = privateKey.export({ format: "jwk" });
  return { privateKey: fromUrl(jwk.d), publicKey: fromUrl(jwk.x) };
}

/** New keys of a host. Only exits have a WireGuard key. */
export function makeKeys(role: "boarding" | "forward" | "exit"): Keys {
  return {
    identity: makePair("ed25519"),
    box: makePair("x25519"),
    wireguard: role === "exit" ? makePair("x25519") : null,
  };
}

/** Signs with the identity key; the signature in base 64. */
export function signer(identity: KeyPair): (bytes: Uint8Array) => string {
  const key = createPrivateKey({
    key: { kty: "OKP", crv: "Ed25519", d: toUrl(identity.privateKey), x: toUrl(identity.publicKey) },
    format: "jwk",
  });
  return (bytes) => sign(null, bytes, key).toString("base64");
}

/** Checks Ed25519 signatures of one public key. Never throws: anything malformed is a false. */
export function verifier(publicKey: string): (bytes: Uint8Array, signature: string) => boolean {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: toUrl(publicKey) }, format: "jwk" });
  } catch {
    return () => false;
  }
  return (bytes, signature) => {
    try {
      return verify(null, bytes, key, Buffer.from(signature, "base64"));
    } catch {
      return false;
    }
  };
}

/** SHA-256 of the canonical JSON, lower-case hex; the same as the shared one, without waiting. */
export function sha256OfCanonical(value: unknown): string {
  return createHash("sha256").update(canonicalJson(value)).digest("hex");
}

/** Opens what was sealed to our box key. Throws TaskError("bad_sealed"). */
export function openSealed(box: KeyPair, sealed: Sealed): Uint8Array {
  let opened: Uint8Array | null = null;
  try {
    opened = nacl.box.open(
      fromBase64(sealed.box),
      fromBase64(sealed.nonce),
      fromBase64(sealed.ephemeralPublicKey),
      fromBase64(box.privateKey),
    );
  } catch {
    // Wrong lengths or not base 64: the same answer as a wrong key.
  }
  if (opened === null) throw new TaskError("bad_sealed", "The sealed part was not made for this host.");
  return opened;
}

/** The other direction, for tests and for whoever seals in Node. */
export function sealFor(publicKey: string, message: Uint8Array): Sealed {
  const pair = nacl.box.keyPair();
  const nonce = nacl.randomBytes(24);
  return {
    ephemeralPublicKey: toBase64(pair.publicKey),
    nonce: toBase64(nonce),
    box: toBase64(nacl.box(message, nonce, fromBase64(publicKey), pair.secretKey)),
  };
}
