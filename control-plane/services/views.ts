import { z } from "zod";
import { cidr4Schema, normaliseDomain } from "../../shared/protocol/values.ts";

/** Time in JSON: ISO 8601, UTC. */
export const instantView = z.iso.datetime();

export function iso(at: number): string;
export function iso(at: number | null): string | null;
export function iso(at: number | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}

/** Query of every list: newest first, `cursor` is the `nextCursor` of the page before. */
export const pageQuery = z.object({
  limit: z.coerce.number().int().min(1).max(200).default(50),
  cursor: z.string().max(64).optional(),
});
export type PageQuery = z.infer<typeof pageQuery>;

export function pageView<T extends z.ZodType>(item: T) {
  return z.object({ items: z.array(item), nextCursor: z.string().nullable() });
}

/** Makes a page of `limit + 1` rows read newest first by id. */
export function page<R extends { id: string }, V>(rows: R[], limit: number, view: (row: R) => V) {
  const items = rows.slice(0, limit);
  return { items: items.map(view), nextCursor: rows.length > limit ? (items.at(-1)?.id ?? null) : null };
}

/** A yes or no of a query. */
export const flagQuery = z.enum(["true", "false"]).transform((value) => value === "true");

/** A short name people give things. */
export const nameSchema = z
  .string()
  .trim()
  .min(1)
  .max(64)
  .regex(/^[^\p{Cc}]*$/u, "must not hold control characters");

/** Ids that operators choose, such as `uae-dubai`. */
export const slugSchema = z
  .string()
  .regex(/^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$/, "must be lower-case letters, digits and dashes");

/** A name as an operator types it, in the one form that hosts take: `example.com`, or `*.example.com` for all below it. */
const domainInput = z
  .string()
  .max(300)
  .transform((text, ctx) => {
    const name = normaliseDomain(text);
    if (name !== undefined) return name;
    ctx.addIssue({ code: "custom", message: "must be a name such as example.com or *.example.com" });
    return z.NEVER;
  });

/** What a whitelist holds: networks and names. */
export const whitelistInput = {
  cidrs: z.array(cidr4Schema).max(10_000),
  domains: z.array(domainInput).max(10_000).default([]),
};
