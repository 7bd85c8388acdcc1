import { AppError } from "../../shared/errors.ts";
import { type Id, type IdPrefix, newId } from "../../shared/ids.ts";
import type { Role } from "../db/schema/index.ts";
import type { Ports } from "../ports/index.ts";
import type { Permission } from "./permissions.ts";

export type UserActor = {
  kind: "user";
  userId: Id<"usr">;
  role: Role;
  /** Set for a sub-account. */
  ownerId: Id<"usr"> | null;
  permissions: ReadonlySet<Permission>;
  /** What was presented: a session, or an API token. */
  credential: Id<"ses"> | Id<"tok">;
};

/** Who asks. */
export type Actor =
  | UserActor
  /** A client that presented a line token. */
  | { kind: "line"; lineId: Id<"lin">; tokenId: Id<"ltk"> }
  | { kind: "agent"; hostId: Id<"hst"> }
  /** A job, the link or the start of the process. */
  | { kind: "system"; name: string }
  | { kind: "anonymous" };

/** An Idempotency-Key this request has claimed; the transaction of its change writes the answer to it. */
export type IdempotencyClaim = { key: string; leaseUntil: number; status: number };

/** What every verb gets. */
export interface Context {
  readonly ports: Ports;
  readonly actor: Actor;
  readonly requestId?: string;
  readonly idempotency?: IdempotencyClaim;
}

export function systemContext(ports: Ports, name: string): Context {
  return { ports, actor: { kind: "system", name } };
}

export function makeId<P extends IdPrefix>(ports: Ports, prefix: P): Id<P> {
  return newId(prefix, ports.clock.now(), ports.random.bytes(10));
}

/** How an actor stands in the audit log. */
export function actorName(actor: Actor): string {
  switch (actor.kind) {
    case "user":
      return actor.userId;
    case "line":
      return actor.tokenId;
    case "agent":
      return actor.hostId;
    case "system":
      return `system:${actor.name}`;
    case "anonymous":
      return "anonymous";
  }
}

/** The signed-in user. Throws `unauthenticated` for any other actor. */
export function requireUser(ctx: Context): UserActor {
  if (ctx.actor.kind !== "user") throw new AppError("unauthenticated");
  return ctx.actor;
}

/**
 * Whose rows a user may see: an operator everyone's (undefined), a customer its own. Put into the query itself, so that
 * another's id and an unknown id are the same 404.
 */
export function visibleOwner(ctx: Context): Id<"usr"> | undefined {
  const user = requireUser(ctx);
  return user.role === "customer" ? user.userId : undefined;
}
