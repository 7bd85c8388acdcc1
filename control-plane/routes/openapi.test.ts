import { Hono } from "hono";
import { expect, test } from "vitest";
import { z } from "zod";
import { type Env, input, route } from "./define.ts";
import { openApiOf, operationsOf } from "./openapi.ts";

const open = () => route({ access: "public", summary: "Open" });

test("an app with a route that declares no permission is refused at start, by name", () => {
  const inner = new Hono<Env>().get("/declared", open(), (c) => c.text("")).post("/bare", (c) => c.text(""));
  const app = new Hono<Env>().use(async (_, next) => next()).route("/", inner);
  expect(() => operationsOf(app)).toThrow("routes without a declared permission: POST /bare");
});

test("a route for every method needs a permission too", () => {
  const app = new Hono<Env>().all("/anything", (c) => c.text(""));
  expect(() => operationsOf(app)).toThrow("ALL /anything");
});

test("checking an input is not declaring a permission", () => {
  const app = new Hono<Env>().post("/checked", input("json", z.object({ a: z.string() })), (c) => c.text(""));
  expect(() => operationsOf(app)).toThrow("POST /checked");
});

test("the document lists each operation with its permission, parameters and body", () => {
  const app = new Hono<Env>().post(
    "/things/:thingId",
    route({
      access: "me:read",
      summary: "A thing",
      status: 201,
      answer: z.object({ id: z.string() }),
      idempotent: true,
    }),
    input("param", z.object({ thingId: z.string() })),
    input("json", z.object({ name: z.string().max(5) })),
    (c) => c.json({ id: "" }, 201),
  );
  expect(openApiOf(app, "https://example.com")).toMatchObject({
    openapi: "3.1.0",
    servers: [{ url: "https://example.com" }],
    paths: {
      "/things/{thingId}": {
        post: {
          "x-permission": "me:read",
          security: [{ bearer: [] }],
          parameters: [
            { name: "thingId", in: "path", required: true },
            { name: "Idempotency-Key", in: "header" },
          ],
          requestBody: {
            content: { "application/json": { schema: { properties: { name: { maxLength: 5 } }, required: ["name"] } } },
          },
          responses: { 201: { description: "Success" }, default: {} },
        },
      },
    },
  });
});
