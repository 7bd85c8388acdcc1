import { eq } from "drizzle-orm";
import { z } from "zod";
import { AppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { spend } from "../rate-limit.ts";
import { freshToken } from "../secrets.ts";
import { viewUser } from "./views.ts";

export const signInInput = z.object({
  name: z.string().toLowerCase().min(1).max(129),
  password: z.string().min(1).max(256),
});

/** A hash of nothing anyone knows: an unknown name costs the same work as a known one. */
const NOBODY = "scrypt$16384$8$5$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const WINDOW_MS = 15 * 60_000;

/**
 * Password sign-in: answers a fresh session token. Throws `bad_credentials` for an unknown name and a wrong password
 * alike, `rate_limited` after too many tries for the name or from the address, `account_disabled`.
 */
export async function signIn(ctx: Context, input: z.infer<typeof signInInput>, address: string) {
  const { ports } = ctx;
  const limit = ports.settings.signInLimit;
  await spend(ctx, [
    { key: `sign-in:address:${address}`, limit: limit * 10, windowMs: WINDOW_MS },
    // By name and address together: whoever guesses at a name slows itself down, not the name's owner.
    { key: `sign-in:${input.name}:${address}`, limit, windowMs: WINDOW_MS },
    { key: `sign-in:name:${input.name}`, limit: limit * 100, windowMs: WINDOW_MS },
  ]);
  const [user] = await ports.db.read.select().from(t.users).where(eq(t.users.name, input.name));
  const right = await ports.passwords.verify(input.password, user?.passwordHash ?? NOBODY);
  if (user === undefined || !right) throw new AppError("bad_credentials");
  if (user.state !== "active") throw new AppError("account_disabled");

  const { token, hash } = await freshToken(ports, "sess");
  const now = ports.clock.now();
  const expiresAt = now + ports.settings.sessionLifetimeMs;
  const id = makeId(ports, "ses");
  await transaction({ ...ctx, actor: { kind: "system", name: "sign-in" } }, async (tx) => {
    await tx.db.insert(t.sessions).values({ id, userId: user.id, tokenHash: hash, createdAt: now, expiresAt });
    await tx.audit("session.create", user.id, null, { session: id });
  });
  return { token, expiresAt: new Date(expiresAt).toISOString(), user: viewUser(user) };
}
