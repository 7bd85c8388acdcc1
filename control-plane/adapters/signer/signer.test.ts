import { createPublicKey, verify } from "node:crypto";
import { describe, expect, test } from "vitest";
import { canonicalJson } from "../../../shared/canonical.ts";
import { stateSha256 } from "../../../shared/protocol/desired-state.ts";
import { nodeSigner } from "./node.ts";
import { webcryptoSigner } from "./webcrypto.ts";

const SEED = Buffer.alloc(32, 7).toString("base64");

describe.each([
  ["WebCrypto", webcryptoSigner],
  ["node", nodeSigner],
])("the signer by %s", (_name, make) => {
  test("signs as Ed25519 does, the same bytes the same way, under the key agents pin", async () => {
    const signer = await make(SEED);
    const bytes = new TextEncoder().encode("a state");
    const value = await signer.sign(bytes);
    const x = Buffer.from(signer.publicKey, "base64").toString("base64url");
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    expect(verify(null, bytes, key, Buffer.from(value, "base64"))).toBe(true);
    const other = await webcryptoSigner(SEED);
    expect([signer.keyId, signer.publicKey, value]).toEqual([other.keyId, other.publicKey, await other.sign(bytes)]);
  });

  test("hashes a state as its host does", async () => {
    const items = [{ type: "uplink", id: "ü", address: "10.0.0.1", port: 1 }] as const;
    expect(await (await make(SEED)).sha256(canonicalJson(items))).toBe(await stateSha256(items));
  });

  test("refuses a seed of another length", async () => {
    await expect(make(Buffer.alloc(31).toString("base64"))).rejects.toThrow("32 bytes");
  });
});
