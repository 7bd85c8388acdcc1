import { scrypt, timingSafeEqual } from "node:crypto";
import { fromBase64, toBase64 } from "../../../shared/canonical.ts";
import type { Passwords, Random } from "../../ports/index.ts";

/** RFC 7914. 16 MB and about 60 ms here; OWASP's equivalent of its first recommendation in a quarter of the memory. */
const COST = { N: 16_384, r: 8, p: 5 };
const KEY_BYTES = 32;

/** Passwords by scrypt from node:crypto, which Node and Workers (nodejs_compat) both have. Stored as `scrypt$N$r$p$salt$hash`. */
export function scryptPasswords(random: Random, cost = COST): Passwords {
  return {
    async hash(password) {
      const salt = random.bytes(16);
      const key = await derive(password, salt, cost);
      return ["scrypt", cost.N, cost.r, cost.p, toBase64(salt), toBase64(key)].join("$");
    },
    async verify(password, stored) {
      const [kind, N, r, p, salt, hash] = stored.split("$");
      if (kind !== "scrypt" || salt === undefined || hash === undefined)
        throw new Error(`unknown password hash: ${kind}`);
      const key = await derive(password, fromBase64(salt), { N: Number(N), r: Number(r), p: Number(p) });
      return timingSafeEqual(key, fromBase64(hash));
    },
  };
}

function derive(password: string, salt: Uint8Array, cost: typeof COST): Promise<Uint8Array> {
  // NFKC, so that one password typed on two keyboards is one password.
  return new Promise((resolve, reject) => {
    scrypt(password.normalize("NFKC"), salt, KEY_BYTES, { ...cost, maxmem: 64 * 1024 * 1024 }, (error, key) =>
      error ? reject(error) : resolve(key),
    );
  });
}
