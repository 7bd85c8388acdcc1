import { Hono } from "hono";
import { z } from "zod";
import { idSchema } from "../../shared/ids.ts";
import { listReleases, releaseView } from "../services/releases/list.ts";
import { cancelRollout, resumeInput, resumeRollout } from "../services/rollouts/change.ts";
import { createRollout, rolloutInput } from "../services/rollouts/create.ts";
import { getRollout, listRolloutHosts, listRollouts } from "../services/rollouts/read.ts";
import { rolloutHostView, rolloutView } from "../services/rollouts/views.ts";
import { pageQuery, pageView } from "../services/views.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const rolloutParam = z.object({ rolloutId: idSchema("rol") });

/** Versions of the agent, and bringing hosts to them. */
export const rolloutRoutes = new Hono<Env>()
  .get(
    "/releases",
    route({
      access: "hosts:read",
      summary: "Versions of the agent",
      answer: z.object({ items: z.array(releaseView) }),
    }),
    async (c) => c.json(await listReleases(contextOf(c))),
  )
  .post(
    "/rollouts",
    route({
      access: "hosts:write",
      summary: "Set a version of the agent for a host, a group or all: canaries first, halt on error",
      status: 201,
      answer: rolloutView,
      idempotent: true,
    }),
    input("json", rolloutInput),
    async (c) => c.json(await createRollout(contextOf(c), c.req.valid("json")), 201),
  )
  .get(
    "/rollouts",
    route({ access: "hosts:read", summary: "Rollouts, newest first", answer: pageView(rolloutView) }),
    input("query", pageQuery),
    async (c) => c.json(await listRollouts(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/rollouts/:rolloutId",
    route({ access: "hosts:read", summary: "One rollout", answer: rolloutView }),
    input("param", rolloutParam),
    async (c) => c.json(await getRollout(contextOf(c), c.req.valid("param").rolloutId)),
  )
  .get(
    "/rollouts/:rolloutId/hosts",
    route({ access: "hosts:read", summary: "What became of each host", answer: pageView(rolloutHostView) }),
    input("param", rolloutParam),
    input("query", pageQuery),
    async (c) => c.json(await listRolloutHosts(contextOf(c), c.req.valid("param").rolloutId, c.req.valid("query"))),
  )
  .post(
    "/rollouts/:rolloutId/resume",
    route({ access: "hosts:write", summary: "Set a halted rollout going again", answer: rolloutView }),
    input("param", rolloutParam),
    input("json", resumeInput),
    async (c) => c.json(await resumeRollout(contextOf(c), c.req.valid("param").rolloutId, c.req.valid("json"))),
  )
  .post(
    "/rollouts/:rolloutId/cancel",
    route({ access: "hosts:write", summary: "End a rollout; hosts under way come to their end", answer: rolloutView }),
    input("param", rolloutParam),
    async (c) => c.json(await cancelRollout(contextOf(c), c.req.valid("param").rolloutId)),
  );
