import { sql } from "drizzle-orm";
import type { Id } from "../../../shared/ids.ts";
import { inList } from "../../db/indexed.ts";
import { prepared } from "../../db/prepared.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";
import { unionOf } from "./whitelist-size.ts";

type List = ReturnType<typeof unionOf>;

const IDS = sql.placeholder("ids");

const ACCOUNTS = prepared((db) =>
  db.select().from(t.accountWhitelists).where(inList(t.accountWhitelists.userId, IDS)).prepare(),
);
const TYPES_OF_LINES = prepared((db) =>
  db
    .select({ lineId: t.lineServiceTypes.lineId, typeId: t.lineServiceTypes.serviceTypeId })
    .from(t.lineServiceTypes)
    .where(inList(t.lineServiceTypes.lineId, IDS))
    .prepare(),
);
const TYPES = prepared((db) =>
  db
    .select({ id: t.serviceTypes.id, cidrs: t.serviceTypes.cidrs, domains: t.serviceTypes.domains })
    .from(t.serviceTypes)
    .where(inList(t.serviceTypes.id, IDS))
    .prepare(),
);

/**
 * What each of these lines may reach: its account's own list when there is one, otherwise the union of the line's service
 * types; each entry once, in order. A list that many lines share is read and sorted once.
 */
export async function whitelists(
  db: Db,
  lines: readonly { id: Id<"lin">; userId: Id<"usr"> }[],
): Promise<Map<Id<"lin">, List>> {
  if (lines.length === 0) return new Map();
  const userIds = JSON.stringify([...new Set(lines.map((line) => line.userId))]);
  const accounts = new Map((await ACCOUNTS(db).all({ ids: userIds })).map((own) => [own.userId, unionOf([own])]));
  const typed = lines.filter((line) => !accounts.has(line.userId));
  const types = typed.length === 0 ? new Map<Id<"lin">, List>() : await ofTypes(db, typed);
  return new Map(
    lines.map((line) => [line.id, accounts.get(line.userId) ?? types.get(line.id) ?? { cidrs: [], domains: [] }]),
  );
}

async function ofTypes(db: Db, lines: readonly { id: Id<"lin"> }[]): Promise<Map<Id<"lin">, List>> {
  const rows = await TYPES_OF_LINES(db).all({ ids: JSON.stringify(lines.map((line) => line.id)) });
  const distinct = JSON.stringify([...new Set(rows.map((row) => row.typeId))]);
  const types = new Map((await TYPES(db).all({ ids: distinct })).map((type) => [type.id, type]));
  const typesOf = Map.groupBy(rows, (row) => row.lineId);
  const unions = new Map<string, List>();
  const ofIds = (ids: string[]) => {
    const name = JSON.stringify(ids.sort());
    const known = unions.get(name);
    if (known !== undefined) return known;
    const made = unionOf(ids.flatMap((id) => types.get(id) ?? []));
    unions.set(name, made);
    return made;
  };
  return new Map(lines.map((line) => [line.id, ofIds((typesOf.get(line.id) ?? []).map((row) => row.typeId))]));
}
