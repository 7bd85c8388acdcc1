import { and, eq, gt, isNull, or } from "drizzle-orm";
import { sha256Hex } from "../../../shared/canonical.ts";
import * as t from "../../db/schema/index.ts";
import type { Ports } from "../../ports/index.ts";
import type { Actor } from "../context.ts";
import { type Permission, ROLE_PERMISSIONS } from "../permissions.ts";
import { isToken } from "../secrets.ts";

/**
 * Who a bearer token stands for, or undefined when it stands for nobody (any more): a session, an API token, a line token.
 */
export async function authenticate(ports: Ports, token: string): Promise<Actor | undefined> {
  if (isToken(token, "sess")) return bySession(ports, await sha256Hex(token));
  if (isToken(token, "api")) return byApiToken(ports, await sha256Hex(token));
  if (isToken(token, "line")) return byLineToken(ports, await sha256Hex(token));
  return undefined;
}

async function bySession(ports: Ports, hash: string): Promise<Actor | undefined> {
  const [row] = await ports.db.read
    .select({ session: t.sessions.id, user: t.users })
    .from(t.sessions)
    .innerJoin(t.users, eq(t.users.id, t.sessions.userId))
    .where(
      and(eq(t.sessions.tokenHash, hash), isNull(t.sessions.revokedAt), gt(t.sessions.expiresAt, ports.clock.now())),
    );
  if (row === undefined || row.user.state !== "active") return undefined;
  const { id: userId, role, ownerId } = row.user;
  return { kind: "user", userId, role, ownerId, permissions: ROLE_PERMISSIONS[role], credential: row.session };
}

async function byApiToken(ports: Ports, hash: string): Promise<Actor | undefined> {
  const [row] = await ports.db.read
    .select({ token: t.apiTokens, user: t.users })
    .from(t.apiTokens)
    .innerJoin(t.users, eq(t.users.id, t.apiTokens.userId))
    .where(
      and(
        eq(t.apiTokens.tokenHash, hash),
        isNull(t.apiTokens.revokedAt),
        or(isNull(t.apiTokens.expiresAt), gt(t.apiTokens.expiresAt, ports.clock.now())),
      ),
    );
  if (row === undefined || row.user.state !== "active") return undefined;
  const { id: userId, role, ownerId } = row.user;
  // A role that lost a permission takes it from its tokens too.
  const held = ROLE_PERMISSIONS[role];
  const permissions = new Set(row.token.scopes.filter((scope): scope is Permission => held.has(scope as Permission)));
  return { kind: "user", userId, role, ownerId, permissions, credential: row.token.id };
}

async function byLineToken(ports: Ports, hash: string): Promise<Actor | undefined> {
  const [row] = await ports.db.read
    .select({ tokenId: t.lineTokens.id, lineId: t.lineTokens.lineId, state: t.users.state })
    .from(t.lineTokens)
    .innerJoin(t.lines, eq(t.lines.id, t.lineTokens.lineId))
    .innerJoin(t.users, eq(t.users.id, t.lines.userId))
    .where(and(eq(t.lineTokens.tokenHash, hash), isNull(t.lineTokens.revokedAt)));
  if (row === undefined || row.state !== "active") return undefined;
  return { kind: "line", lineId: row.lineId, tokenId: row.tokenId };
}
