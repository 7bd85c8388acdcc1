import nacl from "tweetnacl";
import { fromBase64, toBase64 } from "../../../shared/canonical.ts";
import type { Sealed } from "../../../shared/protocol/tasks.ts";
import type { Ports } from "../../ports/index.ts";

/** Seals a small JSON value to an agent's box key with a one-time key (NaCl box), so that only that agent can read it. */
export function seal(ports: Ports, boxPublicKey: string, value: unknown): Sealed {
  const oneTime = nacl.box.keyPair.fromSecretKey(ports.random.bytes(32));
  const nonce = ports.random.bytes(nacl.box.nonceLength);
  const message = new TextEncoder().encode(JSON.stringify(value));
  return {
    ephemeralPublicKey: toBase64(oneTime.publicKey),
    nonce: toBase64(nonce),
    box: toBase64(nacl.box(message, nonce, fromBase64(boxPublicKey), oneTime.secretKey)),
  };
}
