import { sql } from "drizzle-orm";
import { type Id, newId } from "../../shared/ids.ts";
import type { Db, Ports } from "../ports/index.ts";
import type * as t from "./schema/index.ts";

/** Hosts whose revision grew in one transaction: the revision it ended with, and what changed, in words. */
export type Touched = Map<Id<"hst">, { rev: number; changes: string[] }>;

/** Far below how many values one statement may carry. */
const ROWS_A_STATEMENT = 200;
/** A transaction that does more than this has one reason many times over. */
const MOST_CAUSES = 16;

/** Writes down why revisions grew: one row a host, inside the transaction that raised them. */
export async function recordRevisions(
  { clock, random }: Pick<Ports, "clock" | "random">,
  db: Db,
  touched: Touched,
  why: { actor: string; requestId?: string | undefined; causes: readonly t.RevisionCause[] },
): Promise<void> {
  const at = clock.now();
  const causes = JSON.stringify(why.causes.slice(0, MOST_CAUSES));
  const rows = [...touched].map(([hostId, { rev, changes }]) => {
    const id = newId("rev", at, inOrder(rev, random.bytes(10)));
    return sql`(${id}, ${hostId}, ${rev}, ${at}, ${why.actor}, ${why.requestId ?? null}, ${causes}, ${JSON.stringify(changes)})`;
  });
  // Written out, like the raising itself: every change makes this statement, and building it took longer than running it.
  for (let i = 0; i < rows.length; i += ROWS_A_STATEMENT)
    await db.all(
      sql`INSERT INTO host_revisions (id, host_id, rev, at, actor, request_id, causes, changes) VALUES ${sql.join(rows.slice(i, i + ROWS_A_STATEMENT), sql`, `)}`,
    );
}

/** Revisions made within one millisecond keep their order: the id's first random bytes are the revision's last. */
function inOrder(rev: number, bytes: Uint8Array): Uint8Array {
  bytes.set([(rev >> 16) & 255, (rev >> 8) & 255, rev & 255]);
  return bytes;
}
