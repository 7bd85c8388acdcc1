import { Hono } from "hono";
import { z } from "zod";
import { AppError } from "../../shared/errors.ts";
import { idSchema } from "../../shared/ids.ts";
import { auditView, listAudit } from "../services/audit/list.ts";
import { hostMetrics } from "../services/hosts/metrics.ts";
import { jobStateSchema, jobView, listJobs, retryJob } from "../services/jobs/jobs.ts";
import { pageQuery, pageView } from "../services/views.ts";
import { requireMetricsToken } from "./authenticate.ts";
import { contextOf, type Env, input, route } from "./define.ts";

/** For operators and for what watches the process. */
export const operationRoutes = new Hono<Env>()
  .get(
    "/healthz",
    route({ access: "public", summary: "The process answers", answer: z.object({ ok: z.literal(true) }) }),
    (c) => c.json({ ok: true as const }),
  )
  .get(
    "/readyz",
    route({
      access: "public",
      summary: "The process can serve: its database answers",
      answer: z.object({ ok: z.literal(true) }),
    }),
    async (c) => {
      const { db, log } = c.get("ports");
      try {
        await db.ping();
      } catch (error) {
        log.error("not ready", { error });
        throw new AppError("overloaded", "The database does not answer.");
      }
      return c.json({ ok: true as const });
    },
  )
  .get(
    "/metrics",
    route({
      access: "public",
      summary: "Prometheus metrics; with METRICS_TOKEN set, for its bearer",
      produces: "text/plain",
    }),
    async (c) => {
      await requireMetricsToken(c.get("ports"), c.req.path, c.req.header("authorization"));
      const rendered = await c.get("ports").metrics.render();
      if (rendered === undefined) throw new AppError("not_found", "This process keeps no metrics.");
      return c.body(rendered.text, 200, { "content-type": rendered.contentType });
    },
  )
  .get(
    "/metrics/hosts",
    route({
      access: "hosts:read",
      summary: "Prometheus metrics of the hosts; an API token scrapes them",
      produces: "text/plain",
    }),
    async (c) => c.text(await hostMetrics(contextOf(c)), 200, { "content-type": "text/plain; version=0.0.4" }),
  )
  .get(
    "/audit",
    route({ access: "audit:read", summary: "Who did what, newest first", answer: pageView(auditView) }),
    input("query", pageQuery.extend({ subject: z.string().max(128).optional(), actor: z.string().max(64).optional() })),
    async (c) => c.json(await listAudit(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/jobs",
    route({ access: "jobs:read", summary: "The outbox; dead letters with state=dead", answer: pageView(jobView) }),
    input("query", pageQuery.extend({ state: jobStateSchema.optional() })),
    async (c) => c.json(await listJobs(contextOf(c), c.req.valid("query"))),
  )
  .post(
    "/jobs/:jobId/retry",
    route({ access: "jobs:write", summary: "Run a dead letter again", answer: jobView }),
    input("param", z.object({ jobId: idSchema("job") })),
    async (c) => c.json(await retryJob(contextOf(c), c.req.valid("param").jobId)),
  );
