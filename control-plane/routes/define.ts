import { zValidator } from "@hono/zod-validator";
import type { Handler, Context as HonoContext, MiddlewareHandler, ValidationTargets } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { z } from "zod";
import { sha256Hex } from "../../shared/canonical.ts";
import { AppError } from "../../shared/errors.ts";
import type { Ports } from "../ports/index.ts";
import type { Actor, Context, IdempotencyClaim } from "../services/context.ts";
import { claimIdempotencyKey, releaseIdempotencyKey } from "../services/idempotency.ts";
import type { Permission } from "../services/permissions.ts";

export type Env = {
  Variables: { ports: Ports; actor: Actor; requestId: string; address: string; idempotency?: IdempotencyClaim };
};

/**
 * Who a route is for: one permission of a signed-in user; anyone; a line token, or a user who may use lines (or read them);
 * or a credential that the verb checks by itself (enrolment and upload tokens).
 */
export type Access = Permission | "public" | "line-or-user" | "line-or-reader" | "own-credential";

/** What a user needs where a line token is enough too. */
export const LINE_OR: Readonly<Partial<Record<Access, Permission>>> = {
  "line-or-user": "lines:use",
  "line-or-reader": "lines:read",
};

/** What a route declares of itself. The permission is checked before anything else of the request is looked at. */
export type RouteSpec = {
  access: Access;
  summary: string;
  /** Status and body of success. */
  status?: 200 | 201 | 204;
  answer?: z.ZodType;
  /** Takes an Idempotency-Key. The verb makes one transaction, whose result is the answer. */
  idempotent?: boolean;
  /** The body is bytes, not JSON. */
  rawBody?: boolean;
  /** Content type of success when it is not JSON. */
  produces?: string;
};

/** What each middleware of ours declares, for the check at start-up and for the OpenAPI document. */
export type Declaration =
  | { kind: "route"; spec: RouteSpec }
  | { kind: "input"; target: keyof ValidationTargets; schema: z.ZodType };

const declarations = new WeakMap<object, Declaration>();

export function declarationOf(handler: Handler | MiddlewareHandler): Declaration | undefined {
  return declarations.get(handler);
}

/** Declares a route: who may, what it answers. Comes first in every route; the app does not start when one has none. */
export function route(spec: RouteSpec): MiddlewareHandler<Env> {
  const handler: MiddlewareHandler<Env> = async (c, next) => {
    authorize(c.get("actor"), spec.access);
    if (!spec.rawBody) await checkJson(c);
    if (spec.idempotent) return withIdempotencyKey(c, spec, next);
    await next();
  };
  declarations.set(handler, { kind: "route", spec });
  return handler;
}

function authorize(actor: Actor, access: Access): void {
  if (access === "public" || access === "own-credential") return;
  if (actor.kind === "anonymous") throw new AppError("unauthenticated");
  const needed = LINE_OR[access] ?? (access as Permission);
  if (actor.kind === "line" ? access in LINE_OR : actor.kind === "user" && actor.permissions.has(needed)) return;
  throw new AppError("forbidden");
}

/** The verb's view of a request. */
export function contextOf(c: HonoContext<Env>): Context {
  const idempotency = c.get("idempotency");
  return {
    ports: c.get("ports"),
    actor: c.get("actor"),
    requestId: c.get("requestId"),
    ...(idempotency === undefined ? {} : { idempotency }),
  };
}

/** Checks one part of the request by its schema. What does not fit is `validation_failed` with every issue named. */
export function input<T extends "json" | "query" | "param", S extends z.ZodType>(target: T, schema: S) {
  const validator = zValidator(target, schema, (result) => {
    if (result.success) return;
    const issues = result.error.issues.map(({ path, message }) => ({ path: path.join("."), message }));
    // An id in the path that can't be one names nothing.
    if (target === "param") throw new AppError("not_found");
    throw new AppError("validation_failed", issues.map((i) => `${i.path || target}: ${i.message}`).join("; "), {
      issues,
    });
  });
  declarations.set(validator, { kind: "input", target, schema });
  return validator;
}

export const MAX_BODY_BYTES = 1024 * 1024;
const MAX_JSON_DEPTH = 16;

export const limitBody = bodyLimit({
  maxSize: MAX_BODY_BYTES,
  onError: () => {
    throw new AppError("body_too_large", `At most ${MAX_BODY_BYTES} bytes.`);
  },
});

/** Refuses a body that is of another type, no JSON, or nested deeper than anything we take. */
async function checkJson(c: HonoContext<Env>): Promise<void> {
  if (["GET", "HEAD"].includes(c.req.method)) return;
  const text = await c.req.text();
  if (text === "") return;
  if (c.req.header("content-type")?.split(";")[0]?.trim().toLowerCase() !== "application/json")
    throw new AppError("unsupported_media_type");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new AppError("bad_json");
  }
  if (depthOf(value) > MAX_JSON_DEPTH) throw new AppError("bad_json", `nested deeper than ${MAX_JSON_DEPTH}`);
}

function depthOf(value: unknown): number {
  let depth = 0;
  let level: unknown[] = [value];
  while (level.length > 0 && depth <= MAX_JSON_DEPTH) {
    level = level.flatMap((v) => (typeof v === "object" && v !== null ? Object.values(v) : []));
    if (level.length > 0) depth++;
  }
  return depth;
}

async function withIdempotencyKey(c: HonoContext<Env>, spec: RouteSpec, next: () => Promise<void>) {
  const key = c.req.header("idempotency-key");
  if (key === undefined) return next();
  if (!/^[\x21-\x7e]{1,128}$/.test(key))
    throw new AppError("validation_failed", "Idempotency-Key must be 1 to 128 visible ASCII characters", {
      issues: [{ path: "Idempotency-Key", message: "must be 1 to 128 visible ASCII characters" }],
    });
  const requestHash = await sha256Hex(`${c.req.method}\n${c.req.path}\n${await c.req.text()}`);
  const outcome = await claimIdempotencyKey(contextOf(c), key, requestHash, spec.status ?? 200);
  if (outcome.kind === "replay")
    return c.body(outcome.body, outcome.status as 200, {
      "content-type": "application/json",
      "idempotency-replayed": "true",
    });
  c.set("idempotency", outcome.claim);
  await next();
  // Hono has turned a thrown error into its answer by now. A refusal did nothing: the key may be used again.
  if (c.error !== undefined) await releaseIdempotencyKey(contextOf(c), outcome.claim);
}
