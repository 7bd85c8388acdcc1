import { type Client, createClient } from "@libsql/client/web";
import { drizzle } from "drizzle-orm/libsql/web";
import * as schema from "../../db/schema/index.ts";
import type { Clock, Database, Db, Random } from "../../ports/index.ts";

/** How long a write may wait for its turn on a busy server before it fails. */
const PATIENCE_MS = 10_000;

/**
 * A libSQL server over HTTP: the edge, and any number of processes. The server runs one write transaction at a time and
 * answers 429 or BUSY to what it can't queue; only the opening of a transaction is tried again, with jitter, never its body.
 * It migrates nothing: the migrations are run from `scripts/`.
 */
export function openHttpDatabase(
  config: { url: string; authToken?: string },
  ports: { clock: Clock; random: Random; sleep(ms: number): Promise<void> },
): Database {
  const client = createClient({ ...config, intMode: "number" });
  const db = drizzle({ client, schema, casing: "snake_case" });

  return {
    read: db,
    async write<T>(fn: (tx: Db) => Promise<T>): Promise<T> {
      const giveUpAt = ports.clock.now() + PATIENCE_MS;
      for (let attempt = 0; ; attempt++) {
        let opened = false;
        try {
          return await db.transaction(async (tx) => {
            // The first statement opens the stream: what fails before it has done nothing.
            await tx.run("SELECT 1");
            opened = true;
            return fn(tx as unknown as Db);
          });
        } catch (error) {
          if (opened || !isBusy(error) || ports.clock.now() > giveUpAt) throw error;
          const [byte = 0] = ports.random.bytes(1);
          await ports.sleep(Math.min(500, 10 * 2 ** attempt) * (0.5 + byte / 512));
        }
      }
    },
    async ping() {
      await pingClient(client);
    },
    async close() {
      client.close();
    },
  };
}

async function pingClient(client: Client): Promise<void> {
  await client.execute("SELECT 1");
}

function isBusy(error: unknown): boolean {
  for (let e = error; e instanceof Error; e = e.cause) {
    if (
      /429|SQLITE_BUSY|Too Many Requests|database is locked/i.test(
        `${e.message} ${(e as { code?: string }).code ?? ""}`,
      )
    )
      return true;
  }
  return false;
}
