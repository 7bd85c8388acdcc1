import type { Random } from "../ports/index.ts";

/** Random bytes that are the same for the same seed (xorshift32). Not for secrets. */
export function seededRandom(seed: number): Random {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  const next = () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
  return { bytes: (n) => Uint8Array.from({ length: n }, () => (next() >>> 11) & 255) };
}

/** Puts a list in another order, the same for the same seed. */
export function shuffled<T>(items: readonly T[], random: Random): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const [a = 0, b = 0] = random.bytes(2);
    const j = (a * 256 + b) % (i + 1);
    [out[i], out[j]] = [out[j] as T, out[i] as T];
  }
  return out;
}
