import { Hono } from "hono";
import { z } from "zod";
import { idSchema } from "../../shared/ids.ts";
import { closeConnection } from "../services/connections/close.ts";
import { readConfiguration } from "../services/connections/configuration.ts";
import { openConnection, openInput, openQuery, openView } from "../services/connections/open.ts";
import { listConnections, requireConnection } from "../services/connections/read.ts";
import { connectionView, viewConnection } from "../services/connections/views.ts";
import { diagnoseLine, diagnosisView } from "../services/lines/diagnosis.ts";
import { getLine, listLines } from "../services/lines/read.ts";
import {
  createLineToken,
  lineTokenInput,
  lineTokenView,
  listLineTokens,
  revokeLineToken,
} from "../services/lines/tokens.ts";
import { lineUpdate, updateLine } from "../services/lines/update.ts";
import { lineDetailView, lineView } from "../services/lines/views.ts";
import { readUsage, usageQuery, usageView } from "../services/usage/read.ts";
import { pageQuery, pageView } from "../services/views.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const lineParam = z.object({ lineId: idSchema("lin") });
const connectionParam = z.object({ connectionId: idSchema("con") });
const readyView = z.object({ forward: z.boolean(), exit: z.boolean() });

export const lineRoutes = new Hono<Env>()
  .get(
    "/lines",
    route({ access: "lines:read", summary: "Lines, newest first", answer: pageView(lineView) }),
    input("query", pageQuery.extend({ orderId: idSchema("ord").optional() })),
    async (c) => c.json(await listLines(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/lines/:lineId",
    route({ access: "lines:read", summary: "One line; operators see its provisioning too", answer: lineDetailView }),
    input("param", lineParam),
    async (c) => c.json(await getLine(contextOf(c), c.req.valid("param").lineId)),
  )
  .get(
    "/lines/:lineId/diagnosis",
    route({
      access: "hosts:read",
      summary: "Why can't the client connect: findings, and the facts behind them",
      answer: diagnosisView,
    }),
    input("param", lineParam),
    async (c) => c.json(await diagnoseLine(contextOf(c), c.req.valid("param").lineId)),
  )
  .get(
    "/lines/:lineId/usage",
    route({ access: "lines:read", summary: "Bytes and refusals of a line, day by day in +08:00", answer: usageView }),
    input("param", lineParam),
    input("query", usageQuery),
    async (c) => c.json(await readUsage(contextOf(c), c.req.valid("param").lineId, c.req.valid("query"))),
  )
  .patch(
    "/lines/:lineId",
    route({ access: "lines:write", summary: "Set the MTU of a line's tunnel", answer: lineView }),
    input("param", lineParam),
    input("json", lineUpdate),
    async (c) => c.json(await updateLine(contextOf(c), c.req.valid("param").lineId, c.req.valid("json"))),
  )
  .post(
    "/lines/:lineId/tokens",
    route({
      access: "lines:use",
      summary: "Make a line token; the secret is in this answer only",
      status: 201,
      answer: lineTokenView.extend({ token: z.string() }),
    }),
    input("param", lineParam),
    input("json", lineTokenInput),
    async (c) => c.json(await createLineToken(contextOf(c), c.req.valid("param").lineId, c.req.valid("json")), 201),
  )
  .get(
    "/lines/:lineId/tokens",
    route({ access: "lines:use", summary: "The line's tokens", answer: z.object({ items: z.array(lineTokenView) }) }),
    input("param", lineParam),
    async (c) => c.json(await listLineTokens(contextOf(c), c.req.valid("param").lineId)),
  )
  .delete(
    "/lines/:lineId/tokens/:tokenId",
    route({ access: "lines:use", summary: "Revoke a line token", status: 204 }),
    input("param", lineParam.extend({ tokenId: idSchema("ltk") })),
    async (c) => {
      const { lineId, tokenId } = c.req.valid("param");
      await revokeLineToken(contextOf(c), lineId, tokenId);
      return c.body(null, 204);
    },
  )
  .get(
    "/lines/:lineId/connections",
    route({ access: "lines:read", summary: "The line's connections, newest first", answer: pageView(connectionView) }),
    input("param", lineParam),
    input("query", pageQuery),
    async (c) => c.json(await listConnections(contextOf(c), c.req.valid("param").lineId, c.req.valid("query"))),
  )
  .post(
    "/connections",
    route({
      access: "line-or-user",
      summary: "Open the line's connection; a newer one replaces the older",
      status: 201,
      answer: openView,
    }),
    input("query", openQuery),
    input("json", openInput),
    async (c) => c.json(await openConnection(contextOf(c), c.req.valid("json"), c.req.valid("query").waitMs), 201),
  )
  .get(
    "/connections/:connectionId",
    route({ access: "line-or-reader", summary: "One connection", answer: connectionView }),
    input("param", connectionParam),
    async (c) => c.json(viewConnection(await requireConnection(contextOf(c), c.req.valid("param").connectionId))),
  )
  .delete(
    "/connections/:connectionId",
    route({
      access: "line-or-user",
      summary: "Close a connection; its traffic stops at once",
      answer: connectionView.extend({ ready: readyView }),
    }),
    input("param", connectionParam),
    input("query", openQuery),
    async (c) =>
      c.json(await closeConnection(contextOf(c), c.req.valid("param").connectionId, c.req.valid("query").waitMs)),
  )
  .get(
    "/connections/:connectionId/configuration",
    route({ access: "line-or-reader", summary: "What a WireGuard client needs", answer: z.unknown() }),
    input("param", connectionParam),
    async (c) => {
      const { configuration } = await readConfiguration(contextOf(c), c.req.valid("param").connectionId);
      return c.json(configuration);
    },
  )
  .get(
    "/connections/:connectionId/configuration.conf",
    route({ access: "line-or-reader", summary: "The same as a file for WireGuard clients", produces: "text/plain" }),
    input("param", connectionParam),
    async (c) => {
      const { conf } = await readConfiguration(contextOf(c), c.req.valid("param").connectionId);
      return c.text(conf, 200, { "content-disposition": 'attachment; filename="trunkline.conf"' });
    },
  )
  .get(
    "/connections/:connectionId/configuration.svg",
    route({ access: "line-or-reader", summary: "The same as a QR code", produces: "image/svg+xml" }),
    input("param", connectionParam),
    async (c) => {
      const { qrSvg } = await readConfiguration(contextOf(c), c.req.valid("param").connectionId);
      return c.body(qrSvg, 200, { "content-type": "image/svg+xml" });
    },
  );
