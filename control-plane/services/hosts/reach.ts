import { type AnyColumn, and, eq, gt, type SQL } from "drizzle-orm";
import * as t from "../../db/schema/index.ts";

type Host = typeof t.hosts.$inferSelect;

/** How long after its last sign of life a host counts as online: dead after 40 s of silence, written every 10 s. */
const FRESH_MS = 60_000;

/** Where one host sends what the next should get: its private address when both share a private network, else its public one. */
export function addressFrom(
  from: Pick<Host, "privateNetwork">,
  to: Pick<Host, "privateNetwork" | "privateAddress" | "publicAddress">,
): string | null {
  if (from.privateNetwork !== null && from.privateNetwork === to.privateNetwork && to.privateAddress !== null)
    return to.privateAddress;
  return to.publicAddress;
}

/** Joined and answering, as far as the database knows. A control plane that died leaves "online" behind; the time tells. */
export function isOnline(host: Pick<Host, "state" | "lastSeenAt">, now: number): boolean {
  return host.state === "online" && isReachable(host, now);
}

/** A session of that host is joined and answering, whether or not it takes new connections. */
export function isReachable(host: Pick<Host, "state" | "lastSeenAt">, now: number): boolean {
  return (
    host.state !== "offline" && host.state !== "retired" && host.lastSeenAt !== null && host.lastSeenAt > now - FRESH_MS
  );
}

/** The same as a condition, for lists and counts; of another name of the table where a query has two. */
export function isOnlineSql(now: number, host: Record<"state" | "lastSeenAt", AnyColumn> = t.hosts): SQL | undefined {
  return and(eq(host.state, "online"), gt(host.lastSeenAt, now - FRESH_MS));
}
