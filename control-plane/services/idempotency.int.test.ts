import { eq } from "drizzle-orm";
import { beforeEach, expect, test } from "vitest";
import { sha256Hex } from "../../shared/canonical.ts";
import * as t from "../db/schema/index.ts";
import { type Harness, makeHarness } from "../testing/harness.ts";
import { MONTHLY_FEN, makeCustomer, makePerson, orderLines, type Person, stockCatalogue } from "../testing/world.ts";
import { claimIdempotencyKey } from "./idempotency.ts";
import { creditWallet } from "./wallet/credit.ts";
import { readWallet } from "./wallet/read.ts";

let h: Harness;
let admin: Person;
let customer: Person;

beforeEach(async () => {
  h = await makeHarness();
  await stockCatalogue(h);
  admin = await makePerson(h, "admin", "boss");
  customer = await makeCustomer(h, "customer");
});

function credit(key: string, amountFen = 100, by = admin) {
  const body = { amountFen, reason: "test" };
  return h.request("POST", `/users/${customer.id}/credits`, body, { headers: { ...by.auth, "idempotency-key": key } });
}

const balance = async () => (await readWallet(customer.ctx)).balanceFen;

/** What a process that dies right after it claimed the key leaves behind. */
async function claimAndDie(key: string, amountFen = 100) {
  const text = JSON.stringify({ amountFen, reason: "test" });
  const hash = await sha256Hex(`POST\n/users/${customer.id}/credits\n${text}`);
  const outcome = await claimIdempotencyKey(admin.ctx, key, hash, 201);
  if (outcome.kind !== "run") throw new Error("the key was not free");
  return outcome.claim;
}

test("the same key and body get the same bytes, and the money moves once", async () => {
  const first = await credit("k1");
  h.clock.advance(3_600_000);
  const second = await credit("k1");
  expect(first.status).toBe(201);
  expect([second.status, second.text]).toEqual([first.status, first.text]);
  expect(second.headers.get("content-type")).toBe(first.headers.get("content-type"));
  expect(second.headers.get("idempotency-replayed")).toBe("true");
  expect(await balance()).toBe(100);
});

test("each idempotent verb of an order answers its repetition byte for byte", async () => {
  await creditWallet(admin.ctx, customer.id, { amountFen: 5 * MONTHLY_FEN, reason: "test" });
  const quote = await h.request(
    "POST",
    "/quotes",
    { priceId: "products/path-golden/regions/uae-dubai", chargeType: "month", periods: 1 },
    { headers: customer.auth },
  );
  const twice = async (path: string, body?: unknown) => {
    const headers = { ...customer.auth, "idempotency-key": path };
    const answers = [
      await h.request("POST", path, body, { headers }),
      await h.request("POST", path, body, { headers }),
    ];
    expect(answers[0]?.status).toBeLessThan(300);
    expect(answers[1]?.text).toBe(answers[0]?.text);
    return answers[0]?.body as { id: string; state: string };
  };
  const order = await twice("/orders", { quoteId: quote.body.id, serviceTypeIds: ["TK-1"] });
  expect((await twice(`/orders/${order.id}/pay`, { channel: "balance" })).state).toBe("paid");
  const other = await orderLines(customer);
  expect((await twice(`/orders/${other}/cancel`)).state).toBe("cancelled");
  expect(await balance()).toBe(4 * MONTHLY_FEN);
});

test("the same key with another body, or on another path, is refused", async () => {
  await credit("k1");
  const otherBody = await credit("k1", 101);
  expect([otherBody.status, otherBody.body.code]).toEqual([422, "idempotency_key_reused"]);
  const otherPath = await h.request(
    "POST",
    `/users/${admin.id}/credits`,
    { amountFen: 100, reason: "test" },
    {
      headers: { ...admin.auth, "idempotency-key": "k1" },
    },
  );
  expect([otherPath.status, otherPath.body.code]).toEqual([422, "idempotency_key_reused"]);
  expect(await balance()).toBe(100);
});

test("a key is its user's own: another's same key is another key", async () => {
  const finance = await makePerson(h, "finance", "finance");
  expect((await credit("k1")).status).toBe(201);
  expect((await credit("k1", 50, finance)).status).toBe(201);
  expect(await balance()).toBe(150);
});

test("while the first request runs, the second is told so, with a time to come back", async () => {
  await claimAndDie("k1");
  const answer = await credit("k1");
  expect([answer.status, answer.body.code]).toEqual([409, "idempotency_in_flight"]);
  expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(await balance()).toBe(0);
});

test("50 parallel credits with one key credit once; each answers the same bytes or that the first still runs", async () => {
  const answers = await Promise.all(Array.from({ length: 50 }, () => credit("k1")));
  expect(await balance()).toBe(100);
  const done = answers.filter((a) => a.status === 201);
  expect(done.length).toBeGreaterThan(0);
  expect(new Set(done.map((a) => a.text)).size).toBe(1);
  const rest = answers.filter((a) => a.status !== 201);
  expect(new Set(rest.map((a) => a.body.code))).toEqual(
    rest.length > 0 ? new Set(["idempotency_in_flight"]) : new Set(),
  );
  expect((await credit("k1")).text).toBe(done[0]?.text);
});

test("a refused request frees its key: the same request works once its cause is gone", async () => {
  const orderId = await orderLines(customer);
  const pay = () =>
    h.request(
      "POST",
      `/orders/${orderId}/pay`,
      { channel: "balance" },
      { headers: { ...customer.auth, "idempotency-key": "pay" } },
    );
  expect((await pay()).body.code).toBe("balance_too_low");
  await credit("k1", MONTHLY_FEN);
  expect((await pay()).body.state).toBe("paid");
  expect(await balance()).toBe(0);
});

test("a request that was not valid frees its key for a corrected one", async () => {
  expect((await credit("k1", -1)).body.code).toBe("validation_failed");
  expect((await credit("k1", 100)).status).toBe(201);
});

test("a key whose process died is taken over when its lease ends, and the work is done once", async () => {
  const dead = await claimAndDie("k1");
  h.clock.advance(59_999);
  expect((await credit("k1")).body.code).toBe("idempotency_in_flight");
  h.clock.advance(1);
  expect((await credit("k1")).status).toBe(201);
  expect(await balance()).toBe(100);
  // The first was not dead but slow: it comes too late, and does nothing.
  await expect(
    creditWallet({ ...admin.ctx, idempotency: dead }, customer.id, { amountFen: 100, reason: "test" }),
  ).rejects.toThrow(expect.objectContaining({ code: "idempotency_in_flight" }));
  expect(await balance()).toBe(100);
  expect((await credit("k1")).headers.get("idempotency-replayed")).toBe("true");
});

test("a crash inside the transaction leaves neither the money nor the answer", async () => {
  const { write } = h.ports.db;
  let calls = 0;
  // The claim commits; the change itself is rolled back as by a crash before its commit.
  h.ports.db.write = (fn) =>
    ++calls === 2
      ? write(async (tx) => {
          await fn(tx);
          throw new Error("crash");
        })
      : calls > 2
        ? Promise.reject(new Error("dead"))
        : write(fn);
  const crashed = await credit("k1");
  h.ports.db.write = write;
  expect(crashed.status).toBe(500);
  expect(await balance()).toBe(0);
  const [row] = await h.ports.db.read.select().from(t.idempotencyKeys).where(eq(t.idempotencyKeys.key, "k1"));
  expect(row?.response).toBeNull();
  h.clock.advance(60_000);
  expect((await credit("k1")).status).toBe(201);
  expect(await balance()).toBe(100);
});

test("a key that is no visible ASCII of at most 128 characters is refused", async () => {
  for (const key of ["a b", "x".repeat(129)]) expect((await credit(key)).body.code).toBe("validation_failed");
  expect(await balance()).toBe(0);
});
