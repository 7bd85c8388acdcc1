import type { Hono } from "hono";
import { z } from "zod";
import { ERROR_CODES } from "../../shared/errors.ts";
import { declarationOf, type Env, type RouteSpec } from "./define.ts";

type Operation = { method: string; path: string; spec: RouteSpec; inputs: Map<string, z.ZodType> };

/** Every declared operation of an app. Throws at start-up when a route declares no permission: nothing is served then. */
export function operationsOf(app: Hono<Env>): Operation[] {
  type Partly = Omit<Operation, "spec"> & { spec?: RouteSpec };
  const operations = new Map<string, Partly>();
  for (const { method, path, handler } of app.routes) {
    if (method === "ALL" && path === "/*") continue; // middleware of the whole app
    const key = `${method} ${path}`;
    const operation: Partly = operations.get(key) ?? { method, path, inputs: new Map() };
    operations.set(key, operation);
    const declared = declarationOf(handler);
    if (declared?.kind === "route") operation.spec = declared.spec;
    if (declared?.kind === "input") operation.inputs.set(declared.target, declared.schema);
  }
  const bare = [...operations].filter(([, operation]) => operation.spec === undefined).map(([key]) => key);
  if (bare.length > 0) throw new Error(`routes without a declared permission: ${bare.join(", ")}`);
  return [...operations.values()] as Operation[];
}

/** The OpenAPI 3.1 document of the app, made from the schemas the routes check by. */
export function openApiOf(app: Hono<Env>, publicUrl: string): unknown {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operationsOf(app)) {
    const path = operation.path.replaceAll(/:([A-Za-z]+)/g, "{$1}");
    paths[path] = { ...paths[path], [operation.method.toLowerCase()]: describe(operation) };
  }
  return {
    openapi: "3.1.0",
    info: { title: "Trunkline", version: "1", description: "Sells and runs private acceleration lines." },
    servers: [{ url: publicUrl }],
    paths,
    components: {
      securitySchemes: { bearer: { type: "http", scheme: "bearer" } },
      schemas: {
        Problem: {
          type: "object",
          required: ["type", "title", "status", "code", "requestId"],
          properties: {
            type: { type: "string" },
            title: { type: "string" },
            status: { type: "integer" },
            code: { enum: Object.keys(ERROR_CODES) },
            detail: { type: "string" },
            requestId: { type: "string" },
          },
        },
      },
    },
  };
}

function describe({ spec, inputs }: Operation): unknown {
  const { access, summary, status = 200, answer, produces = "application/json" } = spec;
  const body = inputs.get("json");
  return {
    summary,
    "x-permission": access,
    security: access === "public" ? [] : [{ bearer: [] }],
    parameters: [
      ...parameters(inputs.get("param"), "path"),
      ...parameters(inputs.get("query"), "query"),
      ...(spec.idempotent
        ? [{ name: "Idempotency-Key", in: "header", schema: { type: "string", maxLength: 128 } }]
        : []),
    ],
    ...(body === undefined
      ? {}
      : { requestBody: { required: true, content: { "application/json": { schema: toSchema(body, "input") } } } }),
    responses: {
      [status]: {
        description: "Success",
        ...(status === 204
          ? {}
          : { content: { [produces]: answer === undefined ? {} : { schema: toSchema(answer, "output") } } }),
      },
      default: {
        description: "A problem",
        content: { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } },
      },
    },
  };
}

function parameters(schema: z.ZodType | undefined, place: "path" | "query"): unknown[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = toSchema(schema, "input") as {
    properties?: Record<string, unknown>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: place,
    required: place === "path" || required.includes(name),
    schema: property,
  }));
}

function toSchema(schema: z.ZodType, io: "input" | "output"): unknown {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: "any" });
  return rest;
}
