import { Hono, type Context as HonoContext } from "hono";
import { routePath } from "hono/route";
import { secureHeaders } from "hono/secure-headers";
import { AppError } from "../shared/errors.ts";
import type { Ports } from "./ports/index.ts";
import { accountRoutes } from "./routes/accounts.ts";
import { authenticateRequest } from "./routes/authenticate.ts";
import { catalogueRoutes } from "./routes/catalogue.ts";
import { type Env, limitBody, route } from "./routes/define.ts";
import { diagnosticsRoutes } from "./routes/diagnostics.ts";
import { hostRoutes } from "./routes/hosts.ts";
import { installRoutes } from "./routes/install.ts";
import { lineRoutes } from "./routes/lines.ts";
import { openApiOf, operationsOf } from "./routes/openapi.ts";
import { operationRoutes } from "./routes/operations.ts";
import { orderRoutes } from "./routes/orders.ts";
import { answerProblem } from "./routes/problem.ts";
import { rolloutRoutes } from "./routes/rollouts.ts";
import { makeId } from "./services/context.ts";

export type AppOptions = {
  /** The address a request came from, as far as it can be trusted; limits at the door count by it. */
  addressOf(c: HonoContext): string;
};

/**
 * The HTTP API over these ports. Reads nothing from its surroundings and starts nothing; the same app serves on Node and on
 * Workers. Throws when a route declares no permission.
 */
export function createApp(ports: Ports, options: AppOptions) {
  const app = new Hono<Env>();
  app.onError(answerProblem);

  app.use(async (c, next) => {
    const startedAt = ports.clock.now();
    const requestId = makeId(ports, "req");
    c.set("ports", ports);
    c.set("requestId", requestId);
    c.set("actor", { kind: "anonymous" });
    c.set("address", options.addressOf(c));
    c.header("x-request-id", requestId);
    await next();
    const ms = ports.clock.now() - startedAt;
    const name = `${c.req.method} ${routePath(c, -1)}`;
    ports.metrics.count("http_requests", { route: name, status: String(c.res.status) });
    ports.metrics.time("http_request_ms", ms, { route: name });
    ports.log.info("request", { requestId, method: c.req.method, path: c.req.path, status: c.res.status, ms });
  });
  app.use(secureHeaders({ contentSecurityPolicy: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } }));
  app.use(limitBody);
  app.use(authenticateRequest);

  const api = app
    .route("/", operationRoutes)
    .route("/", accountRoutes)
    .route("/", catalogueRoutes)
    .route("/", orderRoutes)
    .route("/", lineRoutes)
    .route("/", hostRoutes)
    .route("/", installRoutes)
    .route("/", rolloutRoutes)
    .route("/", diagnosticsRoutes);

  const document: { value?: unknown } = {};
  app.get("/openapi.json", route({ access: "public", summary: "This document" }), (c) => {
    document.value ??= openApiOf(app, ports.settings.publicUrl);
    return c.json(document.value as Record<string, unknown>);
  });

  const operations = operationsOf(app).map(({ method, path }) => ({
    method,
    pattern: new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/:[A-Za-z]+/g, "[^/]+")}$`),
  }));
  app.notFound((c) => {
    const allowed = operations.filter(({ pattern }) => pattern.test(c.req.path)).map(({ method }) => method);
    if (allowed.length === 0) throw new AppError("not_found");
    c.header("allow", allowed.join(", "));
    throw new AppError("method_not_allowed");
  });
  return api;
}
