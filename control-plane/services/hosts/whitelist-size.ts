import { eq, inArray, ne } from "drizzle-orm";
import { AppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import type { Db } from "../../ports/index.ts";

export type Whitelist = { cidrs: readonly string[]; domains: readonly string[] };

/** What an agent takes: entries of a kind, and bytes of a state (1 MiB a frame, less what stands beside the whitelist). */
export const MOST_ENTRIES = 20_000;
export const MOST_BYTES = 1_000_000;

/** Several lists as one, each entry once, in one order. */
export function unionOf(lists: readonly Whitelist[]): { cidrs: string[]; domains: string[] } {
  const union = (of: keyof Whitelist) => [...new Set(lists.flatMap((list) => list[of]))].sort();
  return { cidrs: union("cidrs"), domains: union("domains") };
}

/** Throws `whitelist_too_large` when a host could not take the union of these lists. */
export function checkWhitelist(lists: readonly Whitelist[], whose: string): void {
  const union = unionOf(lists);
  for (const kind of ["cidrs", "domains"] as const)
    if (union[kind].length > MOST_ENTRIES)
      throw new AppError(
        "whitelist_too_large",
        `${whose}: ${union[kind].length} ${kind}, and a host takes ${MOST_ENTRIES}.`,
      );
  const bytes = JSON.stringify(union).length;
  if (bytes > MOST_BYTES)
    throw new AppError("whitelist_too_large", `${whose}: ${bytes} bytes, and a host takes ${MOST_BYTES}.`);
}

/**
 * Checks the whitelists of all lines that a service type is part of, as they would be with this list in its place; of those
 * with an account's own list too, which may be taken away. Throws `whitelist_too_large`.
 */
export async function checkLinesOf(db: Db, serviceTypeId: string, list: Whitelist): Promise<void> {
  checkWhitelist([list], serviceTypeId);
  const lines = db
    .select({ id: t.lineServiceTypes.lineId })
    .from(t.lineServiceTypes)
    .innerJoin(t.lines, eq(t.lines.id, t.lineServiceTypes.lineId))
    .where(eq(t.lineServiceTypes.serviceTypeId, serviceTypeId));
  const rows = await db
    .select({ lineId: t.lines.id, typeId: t.lineServiceTypes.serviceTypeId })
    .from(t.lineServiceTypes)
    .innerJoin(t.lines, eq(t.lines.id, t.lineServiceTypes.lineId))
    .where(inArray(t.lineServiceTypes.lineId, lines));
  const typesOf = new Map<string, string[]>();
  for (const { lineId, typeId } of rows) typesOf.set(lineId, [...(typesOf.get(lineId) ?? []), typeId]);
  // Thousands of lines have a few combinations of types among them: each is checked once.
  const combinations = new Map([...typesOf].map(([lineId, types]) => [types.sort().join(" "), { lineId, types }]));
  const others = await db.select().from(t.serviceTypes).where(ne(t.serviceTypes.id, serviceTypeId));
  for (const { lineId, types } of combinations.values()) {
    const lists = others.filter((other) => types.includes(other.id));
    if (lists.length > 0) checkWhitelist([list, ...lists], `line ${lineId} with ${types.join(", ")}`);
  }
}
