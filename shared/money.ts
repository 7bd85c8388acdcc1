declare const fenBrand: unique symbol;
/** An amount in integer fen (1 yuan = 100 fen). Always a safe integer. */
export type Fen = number & { readonly [fenBrand]: true };

declare const bpsBrand: unique symbol;
/** A rate in basis points: 10,000 is the whole. */
export type Bps = number & { readonly [bpsBrand]: true };

export const WHOLE_BPS = 10_000;

/** Checks that a number is a whole amount of fen that JavaScript holds exactly. Throws RangeError. */
export function fen(n: number): Fen {
  if (!Number.isSafeInteger(n)) throw new RangeError(`not a whole amount of fen: ${n}`);
  return n as Fen;
}

/** Checks that a number is a rate between 0 and the whole. Throws RangeError. */
export function bps(n: number): Bps {
  if (!Number.isInteger(n) || n < 0 || n > WHOLE_BPS) throw new RangeError(`not a rate in basis points: ${n}`);
  return n as Bps;
}

export function addFen(...amounts: Fen[]): Fen {
  return fen(amounts.reduce((sum, a) => sum + a, 0));
}

export function negateFen(amount: Fen): Fen {
  return fen(0 - amount);
}

export function timesFen(amount: Fen, n: number): Fen {
  if (!Number.isSafeInteger(n)) throw new RangeError(`not a whole number: ${n}`);
  return fen(Number(BigInt(amount) * BigInt(n)));
}

/** amount × numerator ÷ denominator, rounded half up (towards +∞ at exactly one half), exact in between. */
export function mulDivHalfUp(amount: Fen, numerator: number, denominator: number): Fen {
  if (!Number.isSafeInteger(numerator) || !Number.isSafeInteger(denominator) || denominator <= 0)
    throw new RangeError("numerator and denominator must be whole, denominator positive");
  const d = BigInt(denominator);
  const doubled = 2n * BigInt(amount) * BigInt(numerator) + d;
  const q = doubled / (2n * d);
  const exact = doubled % (2n * d) === 0n;
  return fen(Number(doubled < 0n && !exact ? q - 1n : q));
}

/** What a discount of so many basis points takes off an amount, rounded half up once. */
export function discountOf(amount: Fen, rate: Bps): Fen {
  return mulDivHalfUp(amount, rate, WHOLE_BPS);
}
