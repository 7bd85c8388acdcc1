import { Hono } from "hono";
import { z } from "zod";
import { AppError } from "../../shared/errors.ts";
import { idSchema } from "../../shared/ids.ts";
import { enrolRequestSchema, enrolResponseSchema } from "../../shared/protocol/enrolment.ts";
import { enrolHost } from "../services/hosts/enrol.ts";
import {
  createEnrolmentToken,
  enrolmentTokenInput,
  enrolmentTokenView,
  listEnrolmentTokens,
} from "../services/hosts/enrolment-tokens.ts";
import { fleetView, readFleet } from "../services/hosts/fleet.ts";
import { drainHost, resumeHost, retireHost } from "../services/hosts/life.ts";
import { hostLogQuery, hostLogView, readHostLog } from "../services/hosts/log.ts";
import { createPair, deletePair, listPairs, pairInput, updatePair, updatePairInput } from "../services/hosts/pairs.ts";
import { getHost, hostEventView, hostQuery, listHostEvents, listHosts } from "../services/hosts/read.ts";
import { replaceHost, replaceHostInput } from "../services/hosts/replace.ts";
import { approveHost, updateHost, updateHostInput } from "../services/hosts/update.ts";
import { hostView, pairView } from "../services/hosts/views.ts";
import { pathSeriesQuery, pathSeriesView, readPathSeries } from "../services/paths/series.ts";
import { pageQuery, pageView } from "../services/views.ts";
import { bearerOf } from "./authenticate.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const hostParam = z.object({ hostId: idSchema("hst") });
const pairParam = z.object({ pairId: idSchema("par") });

export const hostRoutes = new Hono<Env>()
  .post(
    "/enrolment-tokens",
    route({
      access: "hosts:write",
      summary: "Make an enrolment token; the secret is in this answer only",
      status: 201,
      answer: enrolmentTokenView.extend({ token: z.string() }),
    }),
    input("json", enrolmentTokenInput),
    async (c) => c.json(await createEnrolmentToken(contextOf(c), c.req.valid("json")), 201),
  )
  .get(
    "/enrolment-tokens",
    route({
      access: "hosts:write",
      summary: "Enrolment tokens",
      answer: z.object({ items: z.array(enrolmentTokenView) }),
    }),
    async (c) => c.json(await listEnrolmentTokens(contextOf(c))),
  )
  .post(
    "/agent/enrol",
    route({
      access: "own-credential",
      summary: "A host enrols, with an enrolment token as bearer",
      status: 201,
      answer: enrolResponseSchema,
    }),
    input("json", enrolRequestSchema),
    async (c) => {
      const token = bearerOf(c.req.header("authorization"));
      if (token === undefined) throw new AppError("unauthenticated");
      return c.json(await enrolHost(contextOf(c), token, c.req.valid("json")), 201);
    },
  )
  .get(
    "/hosts",
    route({ access: "hosts:read", summary: "Hosts: link, configuration and path apart", answer: pageView(hostView) }),
    input("query", hostQuery),
    async (c) => c.json(await listHosts(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/hosts/:hostId",
    route({ access: "hosts:read", summary: "One host", answer: hostView }),
    input("param", hostParam),
    async (c) => c.json(await getHost(contextOf(c), c.req.valid("param").hostId)),
  )
  .get(
    "/fleet",
    route({
      access: "hosts:read",
      summary: "The fleet in counts: states, versions, what lags or fails",
      answer: fleetView,
    }),
    async (c) => c.json(await readFleet(contextOf(c))),
  )
  .get(
    "/hosts/:hostId/log",
    route({
      access: "hosts:read",
      summary: "Why a host is as it is: revisions with cause and acknowledgement, events, actions; newest first",
      answer: pageView(hostLogView),
    }),
    input("param", hostParam),
    input("query", hostLogQuery),
    async (c) => c.json(await readHostLog(contextOf(c), c.req.valid("param").hostId, c.req.valid("query"))),
  )
  .get(
    "/hosts/:hostId/paths",
    route({
      access: "hosts:read",
      summary: "How one next hop answered the host's probes, over time, oldest first",
      answer: pathSeriesView,
    }),
    input("param", hostParam),
    input("query", pathSeriesQuery),
    async (c) => c.json(await readPathSeries(contextOf(c), c.req.valid("param").hostId, c.req.valid("query"))),
  )
  .get(
    "/hosts/:hostId/events",
    route({ access: "hosts:read", summary: "What happened on a host", answer: pageView(hostEventView) }),
    input("param", hostParam),
    input("query", pageQuery),
    async (c) => c.json(await listHostEvents(contextOf(c), c.req.valid("param").hostId, c.req.valid("query"))),
  )
  .patch(
    "/hosts/:hostId",
    route({ access: "hosts:write", summary: "Change what is known of a host", answer: hostView }),
    input("param", hostParam),
    input("json", updateHostInput),
    async (c) => c.json(await updateHost(contextOf(c), c.req.valid("param").hostId, c.req.valid("json"))),
  )
  .post(
    "/hosts/:hostId/approve",
    route({ access: "hosts:write", summary: "Let an enrolled host in", answer: hostView }),
    input("param", hostParam),
    async (c) => c.json(await approveHost(contextOf(c), c.req.valid("param").hostId)),
  )
  .post(
    "/hosts/:hostId/drain",
    route({ access: "hosts:write", summary: "No new connections or lines; the old ones finish", answer: hostView }),
    input("param", hostParam),
    async (c) => c.json(await drainHost(contextOf(c), c.req.valid("param").hostId)),
  )
  .post(
    "/hosts/:hostId/resume",
    route({ access: "hosts:write", summary: "Take a draining host back", answer: hostView }),
    input("param", hostParam),
    async (c) => c.json(await resumeHost(contextOf(c), c.req.valid("param").hostId)),
  )
  .post(
    "/hosts/:hostId/retire",
    route({ access: "hosts:write", summary: "Remove a host for good", answer: hostView }),
    input("param", hostParam),
    async (c) => c.json(await retireHost(contextOf(c), c.req.valid("param").hostId)),
  )
  .post(
    "/hosts/:hostId/replace",
    route({ access: "hosts:write", summary: "A new machine takes over; answers the new host", answer: hostView }),
    input("param", hostParam),
    input("json", replaceHostInput),
    async (c) => c.json(await replaceHost(contextOf(c), c.req.valid("param").hostId, c.req.valid("json"))),
  )
  .post(
    "/pairs",
    route({ access: "hosts:write", summary: "Pair a boarding with a forward host", status: 201, answer: pairView }),
    input("json", pairInput),
    async (c) => c.json(await createPair(contextOf(c), c.req.valid("json")), 201),
  )
  .patch(
    "/pairs/:pairId",
    route({ access: "hosts:write", summary: "Change a pair's address or ports", answer: pairView }),
    input("param", pairParam),
    input("json", updatePairInput),
    async (c) => c.json(await updatePair(contextOf(c), c.req.valid("param").pairId, c.req.valid("json"))),
  )
  .delete(
    "/pairs/:pairId",
    route({ access: "hosts:write", summary: "Take a pair apart that no connection uses", status: 204 }),
    input("param", pairParam),
    async (c) => {
      await deletePair(contextOf(c), c.req.valid("param").pairId);
      return c.body(null, 204);
    },
  )
  .get(
    "/pairs",
    route({ access: "hosts:read", summary: "Pairs", answer: z.object({ items: z.array(pairView) }) }),
    async (c) => c.json(await listPairs(contextOf(c))),
  );
