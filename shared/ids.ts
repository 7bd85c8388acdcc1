import { z } from "zod";

/** What each prefix names. The prefix is part of the id, so ids of two kinds are different types and can't be mixed up. */
export const ID_PREFIXES = {
  usr: "user",
  ses: "session",
  tok: "API token",
  grp: "group",
  quo: "quote",
  ord: "order",
  pay: "payment",
  res: "resource",
  lin: "line",
  ltk: "line token",
  con: "connection",
  hst: "host",
  enr: "enrolment token",
  par: "pair",
  trf: "transfer",
  ent: "ledger entry",
  job: "job",
  aud: "audit row",
  evt: "host event",
  rev: "host revision",
  cap: "capture",
  rol: "rollout",
  tsk: "task",
  lnk: "link session",
  req: "request",
} as const;

export type IdPrefix = keyof typeof ID_PREFIXES;
export type Id<P extends IdPrefix> = `${P}_${string}`;

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"; // Crockford's base 32: no i, l, o, u
const BODY = /^[0-9a-hjkmnp-tv-z]{26}$/;

/**
 * A new id: prefix, 48 bits of time, 80 bits of randomness, in Crockford's base 32 (the layout of a ULID, lower case).
 * Ids of one prefix sort by the time they were made.
 *
 * @param now UTC milliseconds
 * @param random at least 10 bytes
 */
export function newId<P extends IdPrefix>(prefix: P, now: number, random: Uint8Array): Id<P> {
  if (random.length < 10) throw new RangeError("newId needs 10 random bytes");
  let bits = BigInt(now) & 0xffff_ffff_ffffn;
  for (let i = 0; i < 10; i++) bits = (bits << 8n) | BigInt(random[i] ?? 0);
  let body = "";
  for (let i = 0; i < 26; i++) {
    body = ALPHABET[Number(bits & 31n)] + body;
    bits >>= 5n;
  }
  return `${prefix}_${body}`;
}

/** Schema of an id with this prefix. */
export function idSchema<P extends IdPrefix>(prefix: P) {
  return z
    .string()
    .max(32)
    .refine((s): s is Id<P> => s.startsWith(`${prefix}_`) && BODY.test(s.slice(prefix.length + 1)), {
      message: `must be the id of a ${ID_PREFIXES[prefix]} (${prefix}_…)`,
    })
    .meta({ pattern: `^${prefix}_[0-9a-hjkmnp-tv-z]{26}$` });
}
