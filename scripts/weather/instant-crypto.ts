import { createHash, createPublicKey, KeyObject, sign, verify } from "node:crypto";

/**
 * WebCrypto answers from a pool of threads, in whatever order they finish. Until the function it answers is called, its
 * answers come at once, from the same library without the threads: a history must be the same each time it is run.
 */
export function instantCrypto(): () => void {
  const { subtle } = crypto;
  const before = { digest: subtle.digest, importKey: subtle.importKey, verify: subtle.verify, sign: subtle.sign };
  const bytes = (data: BufferSource) =>
    ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
  const keys = new WeakMap<object, KeyObject>();
  const keyOf = (key: object) => keys.get(key) ?? KeyObject.from(key as CryptoKey);
  Object.assign(subtle, {
    async digest(_algorithm: string, data: BufferSource) {
      const digest = createHash("sha256").update(bytes(data)).digest();
      return new Uint8Array(digest).buffer;
    },
    async importKey(...args: Parameters<typeof subtle.importKey>) {
      const [format, data] = args as unknown as [string, BufferSource];
      if (format !== "raw") return before.importKey.apply(subtle, args);
      const x = Buffer.from(bytes(data)).toString("base64url");
      const handle = {};
      keys.set(handle, createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" }));
      return handle;
    },
    async verify(_algorithm: string, key: object, signature: BufferSource, data: BufferSource) {
      return verify(null, bytes(data), keyOf(key), bytes(signature));
    },
    async sign(_algorithm: string, key: object, data: BufferSource) {
      return new Uint8Array(sign(null, bytes(data), keyOf(key))).buffer;
    },
  });
  return () => void Object.assign(subtle, before);
}
