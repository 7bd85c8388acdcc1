import { count } from "drizzle-orm";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Ports } from "../../ports/index.ts";
import { systemContext } from "../context.ts";
import { base64Url } from "../secrets.ts";
import { insertUser } from "./create-user.ts";

/** On an empty database makes the administrator and answers its one-time password; otherwise undefined. */
export async function bootstrap(ports: Ports): Promise<{ name: string; password: string } | undefined> {
  const ctx = systemContext(ports, "bootstrap");
  const password = base64Url(ports.random.bytes(18));
  const passwordHash = await ports.passwords.hash(password);
  return transaction(ctx, async (tx) => {
    const [row] = await tx.db.select({ n: count() }).from(t.users);
    if (row !== undefined && row.n > 0) return undefined;
    await insertUser(ctx, tx, { name: "admin", role: "admin", passwordHash });
    return { name: "admin", password };
  });
}
