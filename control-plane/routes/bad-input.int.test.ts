import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { ERROR_CODES } from "../../shared/errors.ts";
import { createApiToken } from "../services/accounts/api-tokens.ts";
import type { Permission } from "../services/permissions.ts";
import { ROLE_PERMISSIONS } from "../services/permissions.ts";
import { type Answer, type Harness, openHarness, type Problem } from "../testing/harness.ts";
import { note } from "../testing/note.ts";
import { makeThings, pathOf, type Things, unknownId } from "../testing/route-table.ts";
import { dumpTables } from "../testing/tables.ts";
import { type Access, LINE_OR } from "./define.ts";
import { operationsOf } from "./openapi.ts";

/** How an operation is tested: by whom it may be done, and what its path names. */
type Row = {
  who: "owner" | "admin" | "anyone";
  /** Another customer's thing is a 404 like an unknown one. */
  foreign?: true;
  /** Names something that a PUT makes when it is not there. */
  makes?: true;
  /** What the query has to hold. */
  query?: string;
};

const ROWS: Readonly<Record<string, Row>> = {
  "GET /healthz": { who: "anyone" },
  "GET /readyz": { who: "anyone" },
  "GET /metrics": { who: "anyone" },
  "GET /metrics/hosts": { who: "admin" },
  "GET /openapi.json": { who: "anyone" },
  "GET /audit": { who: "admin" },
  "GET /jobs": { who: "admin" },
  "POST /jobs/:jobId/retry": { who: "admin" },
  "GET /releases": { who: "admin" },
  "POST /rollouts": { who: "admin" },
  "GET /rollouts": { who: "admin" },
  "GET /rollouts/:rolloutId": { who: "admin" },
  "GET /rollouts/:rolloutId/hosts": { who: "admin" },
  "POST /rollouts/:rolloutId/resume": { who: "admin" },
  "POST /rollouts/:rolloutId/cancel": { who: "admin" },
  "POST /sessions": { who: "anyone" },
  "DELETE /sessions/current": { who: "owner" },
  "GET /me": { who: "owner" },
  "POST /me/password": { who: "owner" },
  "POST /api-tokens": { who: "owner" },
  "GET /api-tokens": { who: "owner" },
  "DELETE /api-tokens/:tokenId": { who: "owner", foreign: true },
  "GET /wallet": { who: "owner" },
  "GET /wallet/entries": { who: "owner" },
  "POST /users": { who: "admin" },
  "GET /users": { who: "admin" },
  "GET /users/:userId": { who: "admin" },
  "GET /users/:userId/wallet": { who: "admin" },
  "POST /users/:userId/certification": { who: "admin" },
  "POST /users/:userId/credits": { who: "admin" },
  "GET /users/:userId/whitelist": { who: "admin" },
  "PUT /users/:userId/whitelist": { who: "admin" },
  "DELETE /users/:userId/whitelist": { who: "admin" },
  "GET /catalogue": { who: "owner" },
  "PUT /products/:productId": { who: "admin", makes: true },
  "PUT /regions/:regionId": { who: "admin", makes: true },
  "PUT /products/:productId/regions/:regionId/price": { who: "admin" },
  "GET /service-types": { who: "admin" },
  "PUT /service-types/:serviceTypeId": { who: "admin", makes: true },
  "POST /quotes": { who: "owner" },
  "GET /quotes/:quoteId": { who: "owner", foreign: true },
  "POST /orders": { who: "owner" },
  "GET /orders": { who: "owner" },
  "GET /orders/:orderId": { who: "owner", foreign: true },
  "POST /orders/:orderId/pay": { who: "owner", foreign: true },
  "POST /orders/:orderId/cancel": { who: "owner", foreign: true },
  "GET /lines": { who: "owner" },
  "GET /lines/:lineId": { who: "owner", foreign: true },
  "GET /lines/:lineId/diagnosis": { who: "admin" },
  "PATCH /lines/:lineId": { who: "owner", foreign: true },
  "POST /lines/:lineId/tokens": { who: "owner", foreign: true },
  "GET /lines/:lineId/tokens": { who: "owner", foreign: true },
  "DELETE /lines/:lineId/tokens/:tokenId": { who: "owner", foreign: true },
  "GET /lines/:lineId/usage": { who: "owner", foreign: true },
  "GET /lines/:lineId/connections": { who: "owner", foreign: true },
  "POST /connections": { who: "owner" },
  "GET /connections/:connectionId": { who: "owner", foreign: true },
  "DELETE /connections/:connectionId": { who: "owner", foreign: true },
  "GET /connections/:connectionId/configuration": { who: "owner", foreign: true },
  "GET /connections/:connectionId/configuration.conf": { who: "owner", foreign: true },
  "GET /connections/:connectionId/configuration.svg": { who: "owner", foreign: true },
  "POST /lines/:lineId/pings": { who: "admin" },
  "POST /lines/:lineId/captures": { who: "admin" },
  "GET /captures": { who: "admin" },
  "GET /captures/:captureId": { who: "admin" },
  "POST /captures/:captureId/stop": { who: "admin" },
  "GET /captures/:captureId/file": { who: "admin" },
  "GET /agent/captures/:captureId/data": { who: "anyone" },
  "PUT /agent/captures/:captureId/data": { who: "anyone" },
  "POST /enrolment-tokens": { who: "admin" },
  "GET /enrolment-tokens": { who: "admin" },
  "POST /agent/enrol": { who: "anyone" },
  "GET /install": { who: "anyone" },
  "GET /agent/releases/:version/:file": { who: "anyone" },
  "GET /hosts": { who: "admin" },
  "GET /hosts/:hostId": { who: "admin" },
  "GET /fleet": { who: "admin" },
  "GET /hosts/:hostId/events": { who: "admin" },
  "GET /hosts/:hostId/log": { who: "admin" },
  "GET /hosts/:hostId/paths": { who: "admin", query: "?target=203.0.113.1" },
  "PATCH /hosts/:hostId": { who: "admin" },
  "POST /hosts/:hostId/approve": { who: "admin" },
  "POST /hosts/:hostId/drain": { who: "admin" },
  "POST /hosts/:hostId/resume": { who: "admin" },
  "POST /hosts/:hostId/retire": { who: "admin" },
  "POST /hosts/:hostId/replace": { who: "admin" },
  "POST /pairs": { who: "admin" },
  "GET /pairs": { who: "admin" },
  "PATCH /pairs/:pairId": { who: "admin" },
  "DELETE /pairs/:pairId": { who: "admin" },
};

let h: Harness;
let things: Things;
/** Holds one permission that few routes ask for, so that every other route is forbidden to it. */
let narrow: Record<string, string>;
let narrower: Record<string, string>;

beforeAll(async () => {
  h = await openHarness({ settings: { signInLimit: 100_000 } });
  things = await makeThings(h);
  const make = async (scope: Permission) => {
    const { token } = await createApiToken(things.owner.ctx, { name: scope, scopes: [scope] });
    return { authorization: `Bearer ${token}` };
  };
  narrow = await make("wallet:read");
  narrower = await make("catalogue:read");
});
afterAll(() => h?.close());

type Operation = ReturnType<typeof operationsOf>[number];
type Property = { type?: string; anyOf?: { type?: string }[]; items?: unknown };
type JsonSchema = { properties?: Record<string, Property>; required?: string[] };

const isText = ({ type, anyOf }: Property) =>
  type === "string" || (anyOf?.some((one) => one.type === "string") ?? false);

const schemaOf = (schema: z.ZodType | undefined) =>
  schema === undefined ? undefined : (z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as JsonSchema);

type Case = {
  name: string;
  /** Status and code, or any of these codes. */
  expect: [status: number, code: string];
  path?: string;
  headers?: Record<string, string>;
  body?: unknown;
  rawBody?: string;
};

const JSON_TYPE = { "content-type": "application/json" };
const nested = (depth: number): unknown => (depth === 0 ? 1 : { more: nested(depth - 1) });

function idsOf(operation: Operation): Record<string, string> {
  return operation.path.includes("/lines/:lineId/tokens/:tokenId")
    ? { ...things.ids, tokenId: things.ids.lineTokenId ?? "" }
    : things.ids;
}

function credentials(key: string, row: Row): Record<string, string> {
  if (row.who !== "anyone") return things[row.who].auth;
  if (key === "POST /agent/enrol") return { authorization: `Bearer ${things.enrolToken}` };
  if (key.includes("/agent/captures/")) return { authorization: `Bearer ${things.uploadToken}` };
  return {};
}

/** Everything that should be refused of one operation, made from its own schemas. */
function casesOf(operation: Operation, row: Row): Case[] {
  const key = `${operation.method} ${operation.path}`;
  const { access, rawBody } = operation.spec;
  const auth = credentials(key, row);
  const ids = idsOf(operation);
  const path = pathOf(operation.path, ids);
  const cases: Case[] = [...whoCases(access, key, path)];
  const params = [...operation.path.matchAll(/:([A-Za-z]+)/g)].map(([, name = ""]) => name);
  const valid = things.bodies[key];
  const body = schemaOf(operation.inputs.get("json"));
  const query = schemaOf(operation.inputs.get("query"));
  const add = (c: Case) => cases.push({ path, headers: auth, ...(valid === undefined ? {} : { body: valid }), ...c });

  for (const name of params) {
    const id = ids[name] ?? "";
    // An upload token is of one capture: with another's id it is no credential.
    const nothing: Case["expect"] = key.includes("/agent/captures/") ? [401, "unauthenticated"] : [404, "not_found"];
    const offset = query?.required?.includes("offset") ? "?offset=0" : (row.query ?? "");
    if (id.includes("_"))
      add({
        name: `unknown ${name}`,
        path: pathOf(operation.path, { ...ids, [name]: unknownId(id) }) + offset,
        expect: nothing,
      });
    else if (row.makes === undefined)
      add({
        name: `unknown ${name}`,
        path: pathOf(operation.path, { ...ids, [name]: "nowhere" }),
        expect: [404, "not_found"],
      });
    for (const bad of [
      "A thing",
      `${id}x`.padEnd(100, "x"),
      "%00",
      "%F0",
      "..%2f..",
      "usr_'--",
      "hst_00000000000000000000000000",
    ])
      if (bad.startsWith("hst_") ? !id.startsWith("hst_") : true)
        add({
          name: `${name} that is none: ${bad}`,
          path: pathOf(operation.path, { ...ids, [name]: bad }),
          expect: [404, "not_found"],
        });
  }
  if (row.foreign) add({ name: "another customer's", headers: things.stranger.auth, expect: [404, "not_found"] });

  if (operation.method !== "GET" && !rawBody) {
    const raw = (rawText: string, type = "application/json") => ({
      body: undefined,
      rawBody: rawText,
      headers: { ...auth, "content-type": type },
    });
    const text = JSON.stringify(valid ?? {});
    add({ name: "another content type", expect: [415, "unsupported_media_type"], ...raw(text, "text/plain") });
    add({
      name: "a form",
      expect: [415, "unsupported_media_type"],
      ...raw("a=b", "application/x-www-form-urlencoded"),
    });
    for (const bad of ["{", '{"a":}', "\u0000", "{}{}"])
      add({ name: `no JSON: ${bad}`, expect: [400, "bad_json"], ...raw(bad) });
    add({ name: "a deep body", expect: [400, "bad_json"], body: { ...valid, more: nested(20) } });
    add({
      name: "a very deep body",
      expect: [400, "bad_json"],
      ...raw(`${"[".repeat(100_000)}${"]".repeat(100_000)}`),
    });
    add({
      name: "a body over 1 MB",
      expect: [413, "body_too_large"],
      body: { ...valid, more: "x".repeat(1024 * 1024) },
    });
  }
  if (body !== undefined) {
    const [status, code]: Case["expect"] = [422, "validation_failed"];
    const { properties = {}, required = [] } = body;
    if (required.length > 0 || key === "POST /connections" || key.startsWith("PATCH /")) {
      add({ name: "no body", expect: [status, code], body: undefined });
      add({ name: "an empty object", expect: [status, code], body: {} });
    }
    for (const whole of [[], "text", 5, true, null])
      add({ name: `a body that is ${JSON.stringify(whole)}`, expect: [status, code], body: whole });
    for (const name of required) {
      const { [name]: _, ...rest } = valid ?? {};
      add({ name: `without ${name}`, expect: [status, code], body: rest });
    }
    for (const [name, property] of Object.entries(properties)) {
      const wrong: unknown[] = property.type === "object" ? ["text", 7, []] : [{}, [{}], isText(property) ? 7 : "text"];
      if (property.type === "number" || property.type === "integer") wrong.push(1.5, -1, 1e308, "1");
      if (property.type === "boolean") wrong.push(1, "true");
      if (property.anyOf === undefined) wrong.push(null);
      wrong.push("x".repeat(10_000), Array(20_000).fill("x"));
      for (const value of wrong)
        add({
          name: `${name} = ${JSON.stringify(value)?.slice(0, 20)}`,
          expect: [status, code],
          body: { ...valid, [name]: value },
        });
    }
  }
  for (const name of Object.keys(query?.properties ?? {}))
    add({ name: `query ${name}`, path: `${path}?${name}=${"!".repeat(500)}`, expect: [422, "validation_failed"] });
  if (query?.properties?.limit !== undefined)
    for (const limit of ["0", "-1", "201", "1.5", "x", ""])
      add({ name: `limit=${limit}`, path: `${path}?limit=${limit}`, expect: [422, "validation_failed"] });
  for (const name of query?.required ?? []) add({ name: `query without ${name}`, expect: [422, "validation_failed"] });
  return cases;
}

/** Requests by those who may not, whatever they ask for. */
function whoCases(access: Access, key: string, path: string): Case[] {
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
  const body = things.bodies[key];
  const refused: Case["expect"] = [401, "unauthenticated"];
  const cases: Case[] = [
    { name: "a session that is none", path, headers: bearer(`tl_sess_${"A".repeat(43)}`), body, expect: refused },
    { name: "a token of no kind", path, headers: bearer("letmein"), body, expect: refused },
    { name: "another scheme", path, headers: { authorization: "Basic YTpi" }, body, expect: refused },
  ];
  if (access === "public") return cases;
  cases.push({
    name: "nobody",
    path: path.includes("/data") ? `${path}?offset=0` : path,
    headers: {},
    body,
    expect: refused,
  });
  if (access === "own-credential") return cases;
  cases.push({ name: "a host's enrolment token", path, headers: bearer(things.enrolToken), body, expect: refused });
  cases.push({
    name: "a token of another scope",
    path,
    headers: access === "wallet:read" ? narrower : narrow,
    body,
    expect: [403, "forbidden"],
  });
  for (const role of ["owner", "support", "finance", "admin"] as const) {
    const { actor } = things[role].ctx;
    const needed = LINE_OR[access] ?? (access as Permission);
    if (actor.kind === "user" && !ROLE_PERMISSIONS[actor.role].has(needed))
      cases.push({
        name: `no permission: ${role}`,
        path,
        headers: things[role].auth,
        body,
        expect: [403, "forbidden"],
      });
  }
  return cases;
}

async function check(operation: Operation, c: Case): Promise<string | undefined> {
  const answer: Answer<Problem> = await h.request(operation.method, c.path ?? operation.path, c.body, {
    headers: { ...(c.rawBody === undefined ? {} : JSON_TYPE), ...c.headers },
    ...(c.rawBody === undefined ? {} : { rawBody: c.rawBody }),
  });
  const { body } = answer;
  const [status, code] = c.expect;
  const wrong: string[] = [];
  if (answer.status !== status || body.code !== code)
    wrong.push(`${answer.status} ${body.code ?? answer.text.slice(0, 80)}, not ${status} ${code}`);
  if (answer.headers.get("content-type") !== "application/problem+json")
    wrong.push(`content type ${answer.headers.get("content-type")}`);
  if (!(body.code in ERROR_CODES)) wrong.push(`the code ${body.code} is not of the list`);
  if (body.status !== answer.status) wrong.push(`says status ${body.status}`);
  if (body.requestId === undefined || body.requestId !== answer.headers.get("x-request-id"))
    wrong.push("no request id");
  if (body.title === undefined || body.type === undefined) wrong.push("no title or type");
  return wrong.length === 0 ? undefined : `${c.name}: ${wrong.join("; ")}`;
}

test("every route has a row here, and every row a route", () => {
  const routes = operationsOf(h.app).map(({ method, path }) => `${method} ${path}`);
  expect(Object.keys(ROWS).sort()).toEqual(routes.sort());
});

test("every route that takes a body has a body here that it would take, so that one fault at a time is tested", () => {
  for (const { method, path, inputs } of operationsOf(h.app)) {
    const schema = inputs.get("json");
    const key = `${method} ${path}`;
    expect([key, schema !== undefined]).toEqual([key, things.bodies[key] !== undefined]);
    if (schema !== undefined) expect([key, schema.safeParse(things.bodies[key]).error]).toEqual([key, undefined]);
  }
});

test("bad input, wherever it comes in: problem+json with a code of the list, and nothing is changed", async () => {
  let total = 0;
  let before = await dumpTables(h.ports);
  // A dump that holds nothing would never change.
  for (const table of ["users", "orders", "lines", "connections", "jobs", "audit_log", "hosts"])
    expect([table, (before[table]?.length ?? 0) > 0]).toEqual([table, true]);
  const faults: string[] = [];
  for (const operation of operationsOf(h.app)) {
    const key = `${operation.method} ${operation.path}`;
    const row = ROWS[key];
    if (row === undefined) continue;
    const cases = casesOf(operation, row);
    for (const c of cases) {
      total++;
      const fault = await check(operation, c);
      if (fault !== undefined) faults.push(`${key}, ${fault}`);
    }
    const after = await dumpTables(h.ports);
    for (const [table, rows] of Object.entries(after))
      if (JSON.stringify(rows) !== JSON.stringify(before[table])) {
        const old = new Set(before[table]);
        faults.push(
          `${key} changed ${table}: ${rows
            .filter((r) => !old.has(r))
            .join("\n")
            .slice(0, 300)}`,
        );
      }
    before = after;
  }
  note(`bad input: ${total} requests to ${Object.keys(ROWS).length} routes`);
  expect(faults).toEqual([]);
  // Nothing of it was a fault of ours.
  expect(h.errors).toEqual([]);
});

test("another's thing and an unknown one get the same answer, to the byte but for the request id", async () => {
  for (const operation of operationsOf(h.app)) {
    const key = `${operation.method} ${operation.path}`;
    if (!ROWS[key]?.foreign) continue;
    const ids = idsOf(operation);
    const unknown = Object.fromEntries(Object.entries(ids).map(([k, v]) => [k, v.includes("_") ? unknownId(v) : v]));
    const bytes = async (path: string) => {
      const answer = await h.request(operation.method, path, things.bodies[key], { headers: things.stranger.auth });
      return [answer.status, answer.text.replace(String(answer.headers.get("x-request-id")), "")];
    };
    expect([key, await bytes(pathOf(operation.path, ids))]).toEqual([
      key,
      await bytes(pathOf(operation.path, unknown)),
    ]);
  }
});

test("another's ids in a body are unknown too", async () => {
  const as = { headers: things.stranger.auth };
  const order = await h.request("POST", "/orders", { quoteId: things.ids.quoteId, serviceTypeIds: ["TK-1"] }, as);
  expect([order.status, order.body.code]).toEqual([404, "not_found"]);
  const opened = await h.request("POST", "/connections", { lineId: things.ids.lineId, generate: true }, as);
  expect([opened.status, opened.body.code]).toEqual([404, "not_found"]);
  const byLineToken = await h.request(
    "POST",
    "/connections",
    { lineId: unknownId(things.ids.lineId ?? ""), generate: true },
    {
      headers: { authorization: `Bearer ${things.lineToken}` },
    },
  );
  expect([byLineToken.status, byLineToken.body.code]).toEqual([404, "not_found"]);
});

test("an unknown path is a 404, and a known one with another method a 405 that says which are allowed", async () => {
  const nowhere = await h.request("GET", "/nowhere");
  expect([nowhere.status, nowhere.body.code]).toEqual([404, "not_found"]);
  const wrongMethod = await h.request("PATCH", "/orders", {});
  expect([wrongMethod.status, wrongMethod.body.code]).toEqual([405, "method_not_allowed"]);
  expect(wrongMethod.headers.get("allow")?.split(", ").sort()).toEqual(["GET", "POST"]);
});

test("a body without a length is cut off at the limit too, and so is a chunk of an upload", async () => {
  const chunk = new Uint8Array(64 * 1024);
  const endless = () => new ReadableStream({ pull: (controller) => controller.enqueue(chunk) });
  const send = async (method: string, path: string, headers: Record<string, string>) => {
    const init = { method, headers, body: endless(), duplex: "half" };
    const response = await h.app.request(path, init);
    return [response.status, ((await response.json()) as Problem).code];
  };
  const tooLarge = [413, "body_too_large"];
  expect(await send("POST", "/quotes", { ...things.owner.auth, ...JSON_TYPE })).toEqual(tooLarge);
  const upload = { authorization: `Bearer ${things.uploadToken}` };
  expect(await send("PUT", `/agent/captures/${things.ids.captureId}/data?offset=0`, upload)).toEqual(tooLarge);
});

test("a fault of ours says nothing but its request id", async () => {
  const { write } = h.ports.db;
  h.ports.db.write = () => Promise.reject(new Error("SQLITE_IOERR: secret path /data/trunkline.db"));
  const answer = await h.request("POST", "/quotes", things.bodies["POST /quotes"], { headers: things.owner.auth });
  h.ports.db.write = write;
  expect(answer.status).toBe(500);
  expect(Object.keys(answer.body).sort()).toEqual(["code", "requestId", "status", "title", "type"]);
  expect(answer.text).not.toContain("SQLITE");
  expect(h.errors.splice(0).join()).toContain("SQLITE_IOERR");
});
