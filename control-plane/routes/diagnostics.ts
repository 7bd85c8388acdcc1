import { Hono } from "hono";
import { streamSSE } from "hono/streaming";
import { z } from "zod";
import { AppError } from "../../shared/errors.ts";
import { idSchema } from "../../shared/ids.ts";
import { appendUpload, uploadOffset } from "../services/captures/ingest.ts";
import { MAX_CHUNK_BYTES } from "../services/captures/limits.ts";
import { downloadCapture, getCapture, listCaptures, stopCapture } from "../services/captures/read.ts";
import { captureInput, startCapture } from "../services/captures/start.ts";
import { captureView } from "../services/captures/views.ts";
import { pingInput, runPing } from "../services/pings/run.ts";
import { pageQuery, pageView } from "../services/views.ts";
import { bearerOf } from "./authenticate.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const lineParam = z.object({ lineId: idSchema("lin") });
const captureParam = z.object({ captureId: idSchema("cap") });

export const diagnosticsRoutes = new Hono<Env>()
  .post(
    "/lines/:lineId/pings",
    route({
      access: "diagnostics:run",
      summary: "Ping the customer from the exit; answers stream as server-sent events",
      produces: "text/event-stream",
    }),
    input("param", lineParam),
    input("json", pingInput),
    async (c) => {
      const gone = new AbortController();
      // Everything that can be refused is refused before the stream begins, with a status.
      const events = await runPing(contextOf(c), c.req.valid("param").lineId, c.req.valid("json"), gone.signal);
      return streamSSE(
        c,
        async (stream) => {
          stream.onAbort(() => gone.abort());
          for await (const { event, data } of events) await stream.writeSSE({ event, data: JSON.stringify(data) });
        },
        async (error, stream) => {
          const code = error instanceof AppError ? error.code : "internal";
          c.get("ports").log.warn("ping stream", { requestId: c.get("requestId"), error });
          await stream.writeSSE({ event: "error", data: JSON.stringify({ code }) });
        },
      );
    },
  )
  .post(
    "/lines/:lineId/captures",
    route({
      access: "diagnostics:run",
      summary: "Capture packets on the line's exit",
      status: 201,
      answer: captureView,
    }),
    input("param", lineParam),
    input("json", captureInput),
    async (c) => c.json(await startCapture(contextOf(c), c.req.valid("param").lineId, c.req.valid("json")), 201),
  )
  .get(
    "/captures",
    route({ access: "diagnostics:run", summary: "Captures, newest first", answer: pageView(captureView) }),
    input("query", pageQuery.extend({ lineId: idSchema("lin").optional() })),
    async (c) => c.json(await listCaptures(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/captures/:captureId",
    route({ access: "diagnostics:run", summary: "One capture", answer: captureView }),
    input("param", captureParam),
    async (c) => c.json(await getCapture(contextOf(c), c.req.valid("param").captureId)),
  )
  .post(
    "/captures/:captureId/stop",
    route({ access: "diagnostics:run", summary: "End a capture early and keep what it has", answer: captureView }),
    input("param", captureParam),
    async (c) => c.json(await stopCapture(contextOf(c), c.req.valid("param").captureId)),
  )
  .get(
    "/captures/:captureId/file",
    route({
      access: "diagnostics:run",
      summary: "The capture as pcapng; every download is audited",
      produces: "application/x-pcapng",
    }),
    input("param", captureParam),
    async (c) => {
      const file = await downloadCapture(contextOf(c), c.req.valid("param").captureId);
      return c.body(file.body, 200, {
        "content-type": "application/x-pcapng",
        "content-length": String(file.size),
        "content-disposition": `attachment; filename="${file.name}"`,
        etag: `"${file.sha256}"`,
      });
    },
  )
  .get(
    "/agent/captures/:captureId/data",
    route({ access: "own-credential", summary: "A forward host asks how much of its upload is stored" }),
    input("param", captureParam),
    async (c) => {
      const token = bearerOf(c.req.header("authorization"));
      const offset = await uploadOffset(contextOf(c), c.req.valid("param").captureId, token);
      c.header("upload-offset", String(offset));
      return c.json({ size: offset });
    },
  )
  .put(
    "/agent/captures/:captureId/data",
    route({
      access: "own-credential",
      summary: "A forward host uploads a chunk at an offset",
      rawBody: true,
      answer: z.object({ size: z.number().int() }),
    }),
    input("param", captureParam),
    input(
      "query",
      z.object({
        offset: z.coerce
          .number()
          .int()
          .min(0)
          .max(2 ** 40),
      }),
    ),
    async (c) => {
      const chunk = new Uint8Array(await c.req.arrayBuffer());
      if (chunk.length > MAX_CHUNK_BYTES) throw new AppError("body_too_large");
      const token = bearerOf(c.req.header("authorization"));
      const { captureId } = c.req.valid("param");
      return c.json(await appendUpload(contextOf(c), captureId, token, c.req.valid("query").offset, chunk));
    },
  );
