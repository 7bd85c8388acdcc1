import { createHash, createPrivateKey, sign } from "node:crypto";
import type { Signer } from "../../ports/index.ts";
import { ed25519Pkcs8, webcryptoSigner } from "./webcrypto.ts";

/**
 * The same signer by node's own cryptography. Every change of a host is hashed and signed: WebCrypto hands each to another
 * thread, which costs several times what the work does.
 */
export async function nodeSigner(seed: string): Promise<Signer> {
  const { keyId, publicKey } = await webcryptoSigner(seed);
  const key = createPrivateKey({ key: Buffer.from(ed25519Pkcs8(seed)), format: "der", type: "pkcs8" });
  return {
    keyId,
    publicKey,
    sign: async (message) => sign(null, message, key).toString("base64"),
    sha256: async (text) => createHash("sha256").update(text).digest("hex"),
  };
}
