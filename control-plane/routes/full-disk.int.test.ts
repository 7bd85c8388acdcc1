import { sql } from "drizzle-orm";
import { expect, test } from "vitest";
import { makeHarness } from "../testing/harness.ts";
import { makePerson } from "../testing/world.ts";

test("a full disk: writes are answered 503 with a code and when to come again, reads go on, and space is enough to recover", async () => {
  const h = await makeHarness();
  const admin = await makePerson(h, "admin", "boss");
  const limit = (pages: number) => h.ports.db.write((tx) => tx.all(sql.raw(`PRAGMA max_page_count = ${pages}`)));
  const make = (n: number) =>
    h.request("POST", "/users", { name: `user-${n}`, password: "correct horse battery" }, { headers: admin.auth });
  expect((await make(0)).status).toBe(201);
  // No page more than there are.
  await limit(1);
  let refused = await make(1);
  for (let n = 2; n < 500 && refused.status === 201; n++) refused = await make(n);
  expect(refused).toMatchObject({ status: 503, body: { code: "storage_unavailable" } });
  expect(refused.headers.get("retry-after")).toBe("30");
  expect((await h.request("GET", "/users", undefined, { headers: admin.auth })).status).toBe(200);
  // Operators are told why.
  expect(h.errors.at(-1)).toContain("Nothing can be stored");
  await limit(1_000_000);
  expect((await make(1000)).status).toBe(201);
  await h.ports.db.ping();
});
