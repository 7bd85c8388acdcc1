import type { MiddlewareHandler } from "hono";
import { getCookie } from "hono/cookie";
import { sha256Hex } from "../../shared/canonical.ts";
import { AppError } from "../../shared/errors.ts";
import type { Ports } from "../ports/index.ts";
import { authenticate } from "../services/accounts/authenticate.ts";
import type { Env } from "./define.ts";

export const SESSION_COOKIE = "tl_session";

/**
 * Finds out who asks. API clients send a bearer token; the console a cookie, whose requests may change things only when they
 * come from a page of an allowed origin. A credential that stands for nobody is refused, not taken as anonymous; tokens of
 * other kinds (enrolment, upload) are left to the verb that takes them.
 */
export const authenticateRequest: MiddlewareHandler<Env> = async (c, next) => {
  const ports = c.get("ports");
  const header = c.req.header("authorization");
  const cookie = header === undefined ? getCookie(c, SESSION_COOKIE) : undefined;
  const token = header?.match(/^Bearer ([A-Za-z0-9_-]{1,200})$/)?.[1] ?? cookie;
  if (header !== undefined && token === undefined) throw new AppError("unauthenticated");
  if (token !== undefined && !/^tl_(enr|up)_/.test(token) && !(await isMetricsToken(ports, c.req.path, token))) {
    const actor = await authenticate(ports, token);
    if (actor === undefined && !(cookie !== undefined && isSignIn(c.req.method, c.req.path)))
      throw new AppError("unauthenticated", "The token is not valid, or not any more.");
    if (cookie !== undefined && !["GET", "HEAD", "OPTIONS"].includes(c.req.method))
      checkOrigin(c.req.header("origin"), ports);
    if (actor !== undefined) c.set("actor", actor);
  }
  await next();
};

/** The one token that is no account's. Hashes are compared, so that the time taken says nothing of the token. */
async function isMetricsToken(ports: Ports, path: string, token: string): Promise<boolean> {
  const { metricsToken } = ports.settings;
  return (
    path === "/metrics" && metricsToken !== undefined && (await sha256Hex(token)) === (await sha256Hex(metricsToken))
  );
}

/** Throws `unauthenticated` unless metrics are open to all, or the request came with their token. */
export async function requireMetricsToken(ports: Ports, path: string, header: string | undefined): Promise<void> {
  if (ports.settings.metricsToken === undefined) return;
  if (!(await isMetricsToken(ports, path, bearerOf(header) ?? ""))) throw new AppError("unauthenticated");
}

/** A browser with a stale cookie must still be able to sign in. */
function isSignIn(method: string, path: string): boolean {
  return method === "POST" && path === "/sessions";
}

function checkOrigin(origin: string | undefined, ports: Ports): void {
  const { publicUrl, allowedOrigins } = ports.settings;
  if (origin === undefined || (origin !== new URL(publicUrl).origin && !allowedOrigins.includes(origin)))
    throw new AppError("origin_refused");
}

/** The bearer token of a request whose verb checks it by itself. */
export function bearerOf(header: string | undefined): string | undefined {
  return header?.match(/^Bearer ([A-Za-z0-9_-]{1,200})$/)?.[1];
}
