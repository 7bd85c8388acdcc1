import type { Context as HonoContext } from "hono";
import { HTTPException } from "hono/http-exception";
import { AppError, type ErrorCode } from "../../shared/errors.ts";
import type { Env } from "./define.ts";

/** Turns any error into RFC 9457 problem+json, and logs it once, here. A 5xx tells the caller nothing but the request id. */
export function answerProblem(error: Error, c: HonoContext<Env>): Response {
  const problem = toAppError(error);
  const requestId = c.get("requestId");
  const log = c.get("ports").log;
  if (problem.status >= 500) log.error("request failed", { requestId, path: c.req.path, code: problem.code, error });
  const { retryAfterMs } = problem.extra;
  if (typeof retryAfterMs === "number") c.header("retry-after", String(Math.ceil(retryAfterMs / 1000)));
  // The rest of the body is not read: a client that kept the connection would lose its next request with it.
  if (problem.status === 413) c.header("connection", "close");
  if (problem.status === 401) c.header("www-authenticate", 'Bearer realm="trunkline"');
  const body = {
    type: `urn:trunkline:error:${problem.code}`,
    title: problem.title,
    status: problem.status,
    code: problem.code,
    ...(problem.status === 500 ? {} : { detail: problem.message, ...problem.extra }),
    requestId,
  };
  return c.body(JSON.stringify(body), problem.status as 400, { "content-type": "application/problem+json" });
}

function toAppError(error: Error): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof HTTPException) {
    const codes: Partial<Record<number, ErrorCode>> = { 400: "bad_json", 404: "not_found", 413: "body_too_large" };
    return new AppError(codes[error.status] ?? (error.status < 500 ? "bad_request" : "internal"));
  }
  return new AppError("internal");
}
