/**
 * `read-database.ts <file>`: reads a control plane's database past the control plane, for tests, from inside its host's mounts.
 * A line of JSON in, one out: `{"desired": hostId}` gives the items of the host's desired state, `{"sql": query}` the rows.
 */
import { createInterface } from "node:readline";
import { createClient } from "@libsql/client/sqlite3";
import { drizzle } from "drizzle-orm/libsql";
import * as schema from "../../control-plane/db/schema/index.ts";
import type { Db } from "../../control-plane/ports/index.ts";
import { desiredState } from "../../control-plane/services/hosts/desired-state.ts";
import type { Id } from "../../shared/ids.ts";

export type Question = { desired: Id<"hst"> } | { sql: string };

const client = createClient({ url: `file:${process.argv[2]}` });
const db: Db = drizzle(client, { schema, casing: "snake_case" });

async function answer(question: Question): Promise<unknown> {
  if ("desired" in question) return (await desiredState(db, question.desired))?.items ?? [];
  return (await client.execute(question.sql)).rows.map((row) => ({ ...row }));
}

for await (const line of createInterface({ input: process.stdin })) {
  const said = await answer(JSON.parse(line)).then(
    (value) => ({ value }),
    (error: Error) => ({ error: `${error.message}: ${(error.cause as Error | undefined)?.message}` }),
  );
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
