import { readdir, readlink } from "node:fs/promises";
import { expect, test } from "vitest";
import { makeHarness } from "../testing/harness.ts";
import { makePerson, PASSWORD } from "../testing/world.ts";

const TOKEN = "scrape-me-0123456789";
const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

test("metrics are open without a METRICS_TOKEN, and with one for its bearer only", async () => {
  const open = await makeHarness();
  expect((await open.request("GET", "/metrics")).status).toBe(200);
  const h = await makeHarness({ settings: { metricsToken: TOKEN } });
  const admin = await makePerson(h, "admin", "admin");
  const statuses = [];
  for (const options of [undefined, bearer("wrong-0123456789"), { headers: admin.auth }, bearer(TOKEN)])
    statuses.push((await h.request("GET", "/metrics", undefined, options)).status);
  expect(statuses).toEqual([401, 401, 401, 200]);
  // It is a token for this and nothing else, and readiness says nothing but yes or no to anyone.
  expect((await h.request("GET", "/me", undefined, bearer(TOKEN))).status).toBe(401);
  expect((await h.request("GET", "/readyz")).body).toEqual({ ok: true });
  h.ports.db.ping = () => Promise.reject(new Error("SQLITE_IOERR at /data/trunkline.db"));
  const down = await h.request("GET", "/readyz");
  expect([down.status, down.text.includes("SQLITE")]).toEqual([503, false]);
});

test("signing out takes the console's cookie away", async () => {
  const h = await makeHarness();
  const person = await makePerson(h, "customer", "someone");
  const origin = { origin: "https://console.example" };
  const signIn = await h.request(
    "POST",
    "/sessions",
    { name: person.name, password: PASSWORD, cookie: true },
    { headers: origin },
  );
  const cookie = signIn.headers.get("set-cookie")?.split(";")[0] ?? "";
  expect(cookie).toMatch(/^tl_session=tl_sess_/);
  const out = await h.request("DELETE", "/sessions/current", undefined, { headers: { ...origin, cookie } });
  expect(out.status).toBe(204);
  expect(out.headers.get("set-cookie")).toMatch(/^tl_session=;.*Max-Age=0/);
  expect(out.headers.get("set-cookie")).toContain("Path=/");
});

test("a capture's file is opened when it is read, not when it is asked for", async () => {
  const h = await makeHarness();
  const id = "cap_00000000000000000000000001" as const;
  const openFiles = async () => {
    const names = await readdir("/proc/self/fd");
    const paths = await Promise.all(names.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")));
    return paths.filter((path) => path.includes(id)).length;
  };
  const chunk = new Uint8Array(100_000).fill(7);
  await h.ports.captures.append(id, 0, chunk);
  await h.ports.captures.finish(id, h.ports.captures.readRaw(id));
  const body = await h.ports.captures.open(id);
  expect(await openFiles()).toBe(0);
  const bytes = new Uint8Array(await new Response(body).arrayBuffer());
  expect(Buffer.compare(bytes, chunk)).toBe(0);
  expect(await openFiles()).toBe(0);
  await expect(h.ports.captures.open("cap_00000000000000000000000002")).rejects.toThrow(/ENOENT/);
});
