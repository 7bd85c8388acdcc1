import { eq } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Role } from "../db/schema/index.ts";
import * as t from "../db/schema/index.ts";
import { createApiToken } from "../services/accounts/api-tokens.ts";
import { ALL_PERMISSIONS, type Permission, ROLE_PERMISSIONS } from "../services/permissions.ts";
import { type Harness, makeHarness, openHarness } from "../testing/harness.ts";
import { note } from "../testing/note.ts";
import { makeThings, pathOf, type Things, unknownId } from "../testing/route-table.ts";
import { makeCustomer, makePerson, PASSWORD, type Person } from "../testing/world.ts";
import type { Access } from "./define.ts";
import { operationsOf } from "./openapi.ts";

/** Who holds what, written down a second time on purpose: a change of the rules must be made twice to pass. */
const HOLDERS: Readonly<Record<Permission, string>> = {
  "me:read": "customer support finance admin",
  "me:write": "customer support finance admin",
  "tokens:write": "customer support finance admin",
  "catalogue:read": "customer support finance admin",
  "orders:read": "customer support finance admin",
  "wallet:read": "customer support finance admin",
  "orders:write": "customer",
  "lines:use": "customer",
  "lines:read": "customer support admin",
  "lines:write": "customer support admin",
  "users:read": "support finance admin",
  "hosts:read": "support admin",
  "jobs:read": "support admin",
  "diagnostics:run": "support admin",
  "wallet:credit": "finance admin",
  "audit:read": "finance admin",
  "users:write": "admin",
  "users:certify": "admin",
  "catalogue:write": "admin",
  "hosts:write": "admin",
  "jobs:write": "admin",
};

/** What each route asks for, written down a second time too: the check at start-up knows only that it asks for something. */
const ROUTES: Readonly<Partial<Record<Access, string[]>>> = {
  public: [
    "GET /agent/releases/:version/:file",
    "GET /healthz",
    "GET /install",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "POST /sessions",
  ],
  "audit:read": ["GET /audit"],
  "jobs:read": ["GET /jobs"],
  "jobs:write": ["POST /jobs/:jobId/retry"],
  "me:write": ["DELETE /sessions/current", "POST /me/password"],
  "me:read": ["GET /me"],
  "tokens:write": ["DELETE /api-tokens/:tokenId", "GET /api-tokens", "POST /api-tokens"],
  "wallet:read": ["GET /wallet", "GET /wallet/entries"],
  "users:write": ["POST /users"],
  "users:read": ["GET /users", "GET /users/:userId", "GET /users/:userId/wallet", "GET /users/:userId/whitelist"],
  "users:certify": ["POST /users/:userId/certification"],
  "wallet:credit": ["POST /users/:userId/credits"],
  "catalogue:read": ["GET /catalogue"],
  "catalogue:write": [
    "DELETE /users/:userId/whitelist",
    "GET /service-types",
    "PUT /products/:productId",
    "PUT /products/:productId/regions/:regionId/price",
    "PUT /regions/:regionId",
    "PUT /service-types/:serviceTypeId",
    "PUT /users/:userId/whitelist",
  ],
  "orders:write": [
    "GET /quotes/:quoteId",
    "POST /orders",
    "POST /orders/:orderId/cancel",
    "POST /orders/:orderId/pay",
    "POST /quotes",
  ],
  "orders:read": ["GET /orders", "GET /orders/:orderId"],
  "lines:read": ["GET /lines", "GET /lines/:lineId", "GET /lines/:lineId/connections", "GET /lines/:lineId/usage"],
  "lines:write": ["PATCH /lines/:lineId"],
  "lines:use": ["DELETE /lines/:lineId/tokens/:tokenId", "GET /lines/:lineId/tokens", "POST /lines/:lineId/tokens"],
  "line-or-user": ["DELETE /connections/:connectionId", "POST /connections"],
  "line-or-reader": [
    "GET /connections/:connectionId",
    "GET /connections/:connectionId/configuration",
    "GET /connections/:connectionId/configuration.conf",
    "GET /connections/:connectionId/configuration.svg",
  ],
  "hosts:write": [
    "DELETE /pairs/:pairId",
    "GET /enrolment-tokens",
    "PATCH /hosts/:hostId",
    "PATCH /pairs/:pairId",
    "POST /enrolment-tokens",
    "POST /hosts/:hostId/approve",
    "POST /hosts/:hostId/drain",
    "POST /hosts/:hostId/replace",
    "POST /hosts/:hostId/resume",
    "POST /hosts/:hostId/retire",
    "POST /pairs",
    "POST /rollouts",
    "POST /rollouts/:rolloutId/cancel",
    "POST /rollouts/:rolloutId/resume",
  ],
  "own-credential": ["GET /agent/captures/:captureId/data", "POST /agent/enrol", "PUT /agent/captures/:captureId/data"],
  "hosts:read": [
    "GET /fleet",
    "GET /hosts",
    "GET /hosts/:hostId",
    "GET /hosts/:hostId/events",
    "GET /hosts/:hostId/log",
    "GET /hosts/:hostId/paths",
    "GET /lines/:lineId/diagnosis",
    "GET /metrics/hosts",
    "GET /pairs",
    "GET /releases",
    "GET /rollouts",
    "GET /rollouts/:rolloutId",
    "GET /rollouts/:rolloutId/hosts",
  ],
  "diagnostics:run": [
    "GET /captures",
    "GET /captures/:captureId",
    "GET /captures/:captureId/file",
    "POST /captures/:captureId/stop",
    "POST /lines/:lineId/captures",
    "POST /lines/:lineId/pings",
  ],
};

let h: Harness;
let things: Things;
let sub: Person;

beforeAll(async () => {
  h = await openHarness();
  things = await makeThings(h);
  sub = await makePerson(h, "customer", "kid", things.owner.id);
});
afterAll(() => h?.close());

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

/** Asks for something that is not there, with an empty body: whoever may is told so, whoever may not is told that. */
async function ask(method: string, path: string, headers: Record<string, string>) {
  const nothing = Object.fromEntries(
    Object.entries(things.ids).map(([name, id]) => [name, id.includes("_") ? unknownId(id) : "Not A Slug"]),
  );
  const body = method === "GET" || method === "DELETE" ? undefined : {};
  const answer = await h.request(method, pathOf(path, nothing), body, { headers });
  return answer.body.code === "forbidden" || answer.body.code === "unauthenticated" ? answer.body.code : "allowed";
}

test("the roles hold exactly these permissions", () => {
  const actual = Object.fromEntries(
    ALL_PERMISSIONS.map((permission) => [
      permission,
      (["customer", "support", "finance", "admin"] as Role[])
        .filter((role) => ROLE_PERMISSIONS[role].has(permission))
        .join(" "),
    ]),
  );
  expect(actual).toEqual(HOLDERS);
});

test("every route asks for exactly this permission", () => {
  const actual: Partial<Record<Access, string[]>> = {};
  for (const { method, path, spec } of operationsOf(h.app)) {
    actual[spec.access] ??= [];
    actual[spec.access]?.push(`${method} ${path}`);
  }
  for (const routes of Object.values(actual)) routes.sort();
  expect(actual).toEqual(ROUTES);
});

test("every role on every route: allowed or refused as the permissions say", async () => {
  const { token: apiToken } = await createApiToken(things.admin.ctx, { name: "one scope", scopes: ["hosts:read"] });
  const callers: [name: string, headers: Record<string, string>, held: ReadonlySet<Permission> | "line" | "nobody"][] =
    [
      ["customer", things.owner.auth, ROLE_PERMISSIONS.customer],
      ["sub-account", sub.auth, ROLE_PERMISSIONS.customer],
      ["support", things.support.auth, ROLE_PERMISSIONS.support],
      ["finance", things.finance.auth, ROLE_PERMISSIONS.finance],
      ["admin", things.admin.auth, ROLE_PERMISSIONS.admin],
      ["API token of one scope", bearer(apiToken), new Set<Permission>(["hosts:read"])],
      ["line token", bearer(things.lineToken), "line"],
      ["anonymous", {}, "nobody"],
    ];
  // Signing out ends the caller's session: last.
  const operations = operationsOf(h.app).sort(
    (a, b) => Number(a.path === "/sessions/current") - Number(b.path === "/sessions/current"),
  );
  const wrong: string[] = [];
  let asked = 0;
  for (const { method, path, spec } of operations) {
    // The verb checks the credential by itself; the table of bad input covers it.
    if (spec.access === "own-credential") continue;
    for (const [name, headers, held] of callers) {
      const { access } = spec;
      let expected = "forbidden";
      if (access === "public") expected = "allowed";
      else if (held === "nobody") expected = "unauthenticated";
      else if (access === "line-or-user" || access === "line-or-reader") {
        if (held === "line" || held.has(access === "line-or-user" ? "lines:use" : "lines:read")) expected = "allowed";
      } else if (held !== "line" && held.has(access)) expected = "allowed";
      const actual = await ask(method, path, headers);
      asked++;
      if (actual !== expected) wrong.push(`${name}, ${method} ${path} (${access}): ${actual}, not ${expected}`);
    }
  }
  note(`permissions: ${asked} callers × routes`);
  expect(wrong).toEqual([]);
});

test("a sub-account may look at its own things, and may not order", async () => {
  const other = await makeHarness();
  const world = await makeThings(other);
  const kid = await makePerson(other, "customer", "kid", world.owner.id);
  await other.ports.db.write((tx) => tx.update(t.users).set({ certification: "passed" }).where(eq(t.users.id, kid.id)));
  const quote = await other.request("POST", "/quotes", world.bodies["POST /quotes"], { headers: kid.auth });
  const order = await other.request(
    "POST",
    "/orders",
    { quoteId: quote.body.id, serviceTypeIds: ["TK-1"] },
    { headers: kid.auth },
  );
  expect([order.status, order.body.code]).toEqual([403, "sub_account_may_not_order"]);
  const mine = await other.request("GET", "/lines", undefined, { headers: kid.auth });
  expect(mine.body.items).toEqual([]);
  const owners = await other.request("GET", `/lines/${world.ids.lineId}`, undefined, { headers: kid.auth });
  expect(owners.status).toBe(404);
});

test("an API token holds no scope that its maker does not hold, and loses what its owner's role loses", async () => {
  const make = (scopes: Permission[], headers: Record<string, string>) =>
    h.request("POST", "/api-tokens", { name: "greedy", scopes }, { headers });
  const person = await makeCustomer(h, "maker");
  for (const scope of ALL_PERMISSIONS) {
    const made = await make([scope], person.auth);
    expect([scope, made.status]).toEqual([scope, ROLE_PERMISSIONS.customer.has(scope) ? 201 : 403]);
  }
  const first = await make(["tokens:write", "me:read"], person.auth);
  const byToken = await make(["wallet:read"], bearer(String(first.body.token)));
  expect([byToken.status, byToken.body.code]).toEqual([403, "forbidden"]);

  const operator = await makePerson(h, "admin", "demoted");
  const token = await make(["audit:read", "me:read"], operator.auth);
  const audit = () => h.request("GET", "/audit", undefined, { headers: bearer(String(token.body.token)) });
  expect((await audit()).status).toBe(200);
  await h.ports.db.write((tx) => tx.update(t.users).set({ role: "support" }).where(eq(t.users.id, operator.id)));
  expect((await audit()).status).toBe(403);
});

test("a revoked or expired session, API token or line token is refused", async () => {
  const other = await makeHarness();
  const world = await makeThings(other);
  const me = async (headers: Record<string, string>) =>
    (await other.request("GET", "/me", undefined, { headers })).status;
  const { owner, stranger } = world;
  expect(await me(stranger.auth)).toBe(200);
  expect((await other.request("DELETE", "/sessions/current", undefined, { headers: stranger.auth })).status).toBe(204);
  expect(await me(stranger.auth)).toBe(401);

  const makeToken = async (expiresAt?: string) => {
    const body = { name: "t", scopes: ["me:read"], ...(expiresAt === undefined ? {} : { expiresAt }) };
    return (await other.request<{ id: string; token: string }>("POST", "/api-tokens", body, { headers: owner.auth }))
      .body;
  };
  const kept = await makeToken();
  const short = await makeToken(new Date(other.clock.now() + 1000).toISOString());
  expect([await me(bearer(kept.token)), await me(bearer(short.token))]).toEqual([200, 200]);
  other.clock.advance(1000);
  expect([await me(bearer(kept.token)), await me(bearer(short.token))]).toEqual([200, 401]);
  await other.request("DELETE", `/api-tokens/${kept.id}`, undefined, { headers: owner.auth });
  expect(await me(bearer(kept.token))).toBe(401);

  const connection = () =>
    other.request("GET", `/connections/${world.ids.connectionId}`, undefined, { headers: bearer(world.lineToken) });
  expect((await connection()).status).toBe(200);
  await other.request("DELETE", `/lines/${world.ids.lineId}/tokens/${world.ids.lineTokenId}`, undefined, {
    headers: owner.auth,
  });
  expect((await connection()).status).toBe(401);

  other.clock.advance(other.ports.settings.sessionLifetimeMs - 1000 - 1);
  expect(await me(owner.auth)).toBe(401);
});

test("a session ends when its lifetime does, not before", async () => {
  const other = await makeHarness();
  const person = await makePerson(other, "customer", "someone");
  const me = async () => (await other.request("GET", "/me", undefined, { headers: person.auth })).status;
  other.clock.advance(other.ports.settings.sessionLifetimeMs - 1);
  expect(await me()).toBe(200);
  other.clock.advance(1);
  expect(await me()).toBe(401);
});

test("a disabled account is refused at once: its sessions, API tokens and line tokens, and its password", async () => {
  const other = await makeHarness();
  const world = await makeThings(other);
  const { token } = await createApiToken(world.owner.ctx, { name: "t", scopes: ["me:read"] });
  const statuses = async () => [
    (await other.request("GET", "/me", undefined, { headers: world.owner.auth })).status,
    (await other.request("GET", "/me", undefined, { headers: bearer(token) })).status,
    (
      await other.request("GET", `/connections/${world.ids.connectionId}`, undefined, {
        headers: bearer(world.lineToken),
      })
    ).status,
  ];
  expect(await statuses()).toEqual([200, 200, 200]);
  await other.ports.db.write((tx) =>
    tx.update(t.users).set({ state: "disabled" }).where(eq(t.users.id, world.owner.id)),
  );
  expect(await statuses()).toEqual([401, 401, 401]);
  const signIn = await other.request("POST", "/sessions", { name: "owner", password: PASSWORD });
  expect([signIn.status, signIn.body.code]).toEqual([403, "account_disabled"]);
});

test("a line token opens and reads its own line's connections, and no other's", async () => {
  const other = await makeHarness();
  const world = await makeThings(other);
  const auth = { headers: bearer(world.lineToken) };
  const opened = await other.request("POST", "/connections", { generate: true }, auth);
  expect(opened.status).toBe(201);
  expect(opened.body.lineId).toBe(world.ids.lineId);
  const [line] = await other.ports.db.read.select().from(t.lines);
  if (line === undefined) throw new Error("no line");
  // A second line of the same customer: the token is of that one now.
  await other.ports.db.write(async (tx) => {
    const [resource] = await tx.select().from(t.resources);
    if (resource === undefined) throw new Error("no resource");
    await tx.insert(t.resources).values({ ...resource, id: "res_other", ordinal: 9 });
    await tx.insert(t.lines).values({ ...line, id: "lin_other", resourceId: "res_other", exitHostId: null });
    await tx.update(t.lineTokens).set({ lineId: "lin_other" });
  });
  const read = await other.request("GET", `/connections/${String(opened.body.id)}`, undefined, auth);
  expect([read.status, read.body.code]).toEqual([404, "not_found"]);
});
