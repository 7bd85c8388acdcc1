import { eq } from "drizzle-orm";
import { expect, test, vi } from "vitest";
import * as t from "../../db/schema/index.ts";
import { type Answer, type Harness, makeHarness, PUBLIC_URL } from "../../testing/harness.ts";
import { makePerson, PASSWORD } from "../../testing/world.ts";

function signIn(h: Harness, name: string, password: string, headers: Record<string, string> = {}, more = {}) {
  return h.request("POST", "/sessions", { name, password, ...more }, { headers });
}

const withoutId = (answer: Answer) => [
  answer.status,
  answer.text.replace(String(answer.headers.get("x-request-id")), ""),
];

test("a right password gives a session, which is stored as a hash only", async () => {
  const h = await makeHarness();
  await makePerson(h, "customer", "mona");
  const answer = await signIn(h, "mona", PASSWORD);
  expect(answer.status).toBe(201);
  const token = String(answer.body.token);
  expect(token).toMatch(/^tl_sess_[A-Za-z0-9_-]{43}$/);
  const me = await h.request("GET", "/me", undefined, { headers: { authorization: `Bearer ${token}` } });
  expect(me.body.name).toBe("mona");
  expect(JSON.stringify(await h.ports.db.read.select().from(t.sessions))).not.toContain(token);
  expect(answer.text).not.toContain("passwordHash");
});

test("an unknown name and a wrong password are the same answer, for the same work", async () => {
  const h = await makeHarness();
  await makePerson(h, "customer", "mona");
  const verify = vi.spyOn(h.ports.passwords, "verify");
  const wrong = await signIn(h, "mona", "not the password");
  const unknown = await signIn(h, "nobody", "not the password");
  expect(withoutId(unknown)).toEqual(withoutId(wrong));
  expect([wrong.status, wrong.body.code]).toEqual([401, "bad_credentials"]);
  expect(verify).toHaveBeenCalledTimes(2);
});

test("a disabled account shows itself only to who knows its password", async () => {
  const h = await makeHarness();
  const person = await makePerson(h, "customer", "mona");
  await h.ports.db.write((tx) => tx.update(t.users).set({ state: "disabled" }).where(eq(t.users.id, person.id)));
  expect((await signIn(h, "mona", "not the password")).body.code).toBe("bad_credentials");
  expect((await signIn(h, "mona", PASSWORD)).body.code).toBe("account_disabled");
});

test("too many tries are told when to come back; the right password waits too, another address does not", async () => {
  const h = await makeHarness({ settings: { signInLimit: 3 } });
  await makePerson(h, "customer", "mona");
  for (let i = 0; i < 3; i++) expect((await signIn(h, "mona", "not the password")).status).toBe(401);
  const limited = await signIn(h, "mona", PASSWORD);
  expect([limited.status, limited.body.code]).toEqual([429, "rate_limited"]);
  const wait = Number(limited.headers.get("retry-after"));
  expect(wait).toBeGreaterThan(0);
  expect(wait).toBeLessThanOrEqual(900);
  // The name's owner is elsewhere, and is not locked out by who guesses.
  expect((await signIn(h, "mona", PASSWORD, { "x-test-address": "192.0.2.99" })).status).toBe(201);
  // Capitals are no way round the limit.
  expect((await signIn(h, "MONA", "not the password")).status).toBe(429);
  h.clock.advance(wait * 1000);
  expect((await signIn(h, "mona", PASSWORD)).status).toBe(201);
});

test("one address can't try many names, nor many addresses one name, without end", async () => {
  const h = await makeHarness({ settings: { signInLimit: 1 } });
  // The work of a real hash is not what is counted here.
  vi.spyOn(h.ports.passwords, "verify").mockResolvedValue(false);
  const codes: unknown[] = [];
  for (let i = 0; i < 12; i++) codes.push((await signIn(h, `name${i}`, "not the password")).status);
  expect(codes).toEqual([...Array(10).fill(401), 429, 429]);
  const byName: unknown[] = [];
  for (let i = 0; i < 102; i++)
    byName.push((await signIn(h, "mona", "not the password", { "x-test-address": `198.51.100.${i}` })).status);
  expect(byName.slice(0, 100)).toEqual(Array(100).fill(401));
  expect(byName.slice(100)).toEqual([429, 429]);
});

async function cookieOf(h: Harness): Promise<{ cookie: string; answer: Answer }> {
  const answer = await signIn(h, "mona", PASSWORD, {}, { cookie: true });
  const set = answer.headers.get("set-cookie") ?? "";
  return { cookie: set.split(";")[0] ?? "", answer };
}

test("the console's cookie is HttpOnly, Secure and SameSite, and its token is not in the answer", async () => {
  const h = await makeHarness();
  await makePerson(h, "customer", "mona");
  const { cookie, answer } = await cookieOf(h);
  expect(answer.body.token).toBeUndefined();
  expect(answer.text).not.toContain(cookie.split("=")[1]);
  const set = answer.headers.get("set-cookie") ?? "";
  for (const attribute of ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"]) expect(set).toContain(attribute);
});

test("with a cookie only a page of an allowed origin may change things; reading needs none", async () => {
  const h = await makeHarness();
  await makePerson(h, "customer", "mona");
  const { cookie } = await cookieOf(h);
  const change = (headers: Record<string, string>) =>
    h.request("POST", "/api-tokens", { name: "t", scopes: ["me:read"] }, { headers: { cookie, ...headers } });
  const evil = ["https://evil.example", `${PUBLIC_URL}.evil.example`, PUBLIC_URL.replace("https", "http"), "null"];
  for (const headers of [{}, ...evil.map((origin) => ({ origin }))]) {
    const refused = await change(headers);
    expect([headers, refused.status, refused.body.code]).toEqual([headers, 403, "origin_refused"]);
  }
  expect(await h.ports.db.read.select().from(t.apiTokens)).toEqual([]);
  expect((await change({ origin: PUBLIC_URL })).status).toBe(201);
  expect((await change({ origin: "https://console.example" })).status).toBe(201);
  expect((await h.request("GET", "/me", undefined, { headers: { cookie } })).status).toBe(200);
});

test("a browser with a stale cookie can sign in again, from an allowed origin", async () => {
  const h = await makeHarness();
  await makePerson(h, "customer", "mona");
  const { cookie } = await cookieOf(h);
  h.clock.advance(h.ports.settings.sessionLifetimeMs);
  expect((await h.request("GET", "/me", undefined, { headers: { cookie } })).status).toBe(401);
  expect((await signIn(h, "mona", PASSWORD, { cookie, origin: "https://evil.example" })).body.code).toBe(
    "origin_refused",
  );
  expect((await signIn(h, "mona", PASSWORD, { cookie, origin: PUBLIC_URL })).status).toBe(201);
});

test("no answer allows every origin", async () => {
  const h = await makeHarness();
  const answer = await h.request("GET", "/healthz", undefined, { headers: { origin: "https://evil.example" } });
  expect(answer.headers.get("access-control-allow-origin")).toBeNull();
  expect(answer.headers.get("content-security-policy")).toContain("default-src 'none'");
});

test("a changed password ends the other sessions and keeps this one; the old one opens nothing", async () => {
  const h = await makeHarness();
  const person = await makePerson(h, "customer", "mona");
  const second = { authorization: `Bearer ${String((await signIn(h, "mona", PASSWORD)).body.token)}` };
  const status = async (headers: Record<string, string>) =>
    (await h.request("GET", "/me", undefined, { headers })).status;
  const change = (current: string) =>
    h.request("POST", "/me/password", { current, next: "another good password" }, { headers: person.auth });
  expect((await change("not the password")).body.code).toBe("bad_credentials");
  expect([await status(person.auth), await status(second)]).toEqual([200, 200]);
  expect((await change(PASSWORD)).status).toBe(204);
  expect([await status(person.auth), await status(second)]).toEqual([200, 401]);
  expect((await signIn(h, "mona", PASSWORD)).status).toBe(401);
  expect((await signIn(h, "mona", "another good password")).status).toBe(201);
});

test("whoever holds a session can't guess the password with it without end", async () => {
  const h = await makeHarness({ settings: { signInLimit: 2 } });
  const person = await makePerson(h, "customer", "mona");
  const guess = async () =>
    (
      await h.request(
        "POST",
        "/me/password",
        { current: "guess", next: "another good password" },
        { headers: person.auth },
      )
    ).status;
  expect([await guess(), await guess(), await guess()]).toEqual([401, 401, 429]);
});
