import { createClient } from "@libsql/client/web";
import { drizzle } from "drizzle-orm/libsql/web";
import * as schema from "../../db/schema/index.ts";
import type { Clock, Database, Db, Random } from "../../ports/index.ts";

/** How long a statement or a write may wait for its turn on a busy server before it fails. */
const PATIENCE_MS = 10_000;

/** A server that has not answered a statement by then is taken for gone: a request whose answer got lost would wait for minutes. */
const ANSWER_MS = 15_000;

type Waiting = { clock: Clock; random: Random; sleep(ms: number): Promise<void> };

/**
 * A libSQL server over HTTP: the edge, and any number of processes. It migrates nothing: the migrations are run from
 * `scripts/migrate.ts`.
 *
 * The server runs one write transaction at a time and has room for so many requests. What it turns away unheard is asked
 * again, with jitter: a request it answers with 429, and the opening of a transaction it answers with BUSY. A
 * transaction's body is never run twice.
 *
 * On Workers open one for each request: the client queues statements above a limit and starts one when another ends, which
 * there may be another request's.
 */
export function openHttpDatabase(config: { url: string; authToken?: string | undefined }, waiting: Waiting): Database {
  const { url, authToken } = config;
  const client = createClient({
    url,
    ...(authToken === undefined ? {} : { authToken }),
    intMode: "number",
    fetch: (request: Request) => patiently(waiting, () => send(request)),
  });
  const db = drizzle({ client, schema, casing: "snake_case" });

  return {
    read: db,
    write<T>(fn: (tx: Db) => Promise<T>): Promise<T> {
      return patiently(waiting, async () => {
        let opened = false;
        try {
          const value = await db.transaction(async (tx) => {
            // The first statement carries BEGIN: until it is answered, nothing was done.
            await tx.run("SELECT 1");
            opened = true;
            return fn(tx as unknown as Db);
          });
          return { done: true, value };
        } catch (error) {
          if (opened || !isBusy(error)) throw error;
          return { done: false, orElse: () => Promise.reject(error) };
        }
      });
    },
    async ping() {
      await client.execute("SELECT 1");
    },
    async close() {
      client.close();
    },
  };
}

/** Done, or turned away: then it is tried again, and `orElse` is the outcome when patience ends. */
type Attempt<T> = { done: true; value: T } | { done: false; orElse(): Promise<T> };

async function patiently<T>({ clock, random, sleep }: Waiting, attempt: () => Promise<Attempt<T>>): Promise<T> {
  const giveUpAt = clock.now() + PATIENCE_MS;
  for (let tries = 0; ; tries++) {
    const outcome = await attempt();
    if (outcome.done) return outcome.value;
    if (clock.now() >= giveUpAt) return outcome.orElse();
    const [byte = 0] = random.bytes(1);
    await sleep(Math.min(500, 10 * 2 ** tries) * (0.5 + byte / 512));
  }
}

/** A server too busy for a request answers 429 before it looks at it, inside a transaction too. */
async function send(request: Request): Promise<Attempt<Response>> {
  const response = await fetch(request.clone(), { signal: AbortSignal.timeout(ANSWER_MS) });
  if (response.status !== 429) return { done: true, value: response };
  return { done: false, orElse: async () => response };
}

function isBusy(error: unknown): boolean {
  for (let e = error; e instanceof Error; e = e.cause)
    if (/SQLITE_BUSY|database is locked/i.test(`${e.message} ${(e as { code?: string }).code ?? ""}`)) return true;
  return false;
}
