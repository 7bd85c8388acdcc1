import { beforeAll, describe, expect, test } from "vitest";
import { createApp } from "../app.ts";
import type { Ports } from "../ports/index.ts";
import { expectProblem, type Target } from "./client.ts";
import { doorContract } from "./door.contract.ts";
import { type Customer, MONTHLY_FEN, makeWorld, PASSWORD, PRICE_ID, type World } from "./world.ts";

/**
 * What the HTTP API promises, on every runtime and every database it runs on. Runs in order against one database that holds
 * nothing but the administrator.
 */
export function apiContract(target: Target): void {
  let w: World;
  let alice: Customer;
  let bob: Customer;

  beforeAll(async () => {
    w = await makeWorld(target);
    alice = await w.customer("alice", { creditFen: 100_000 });
    bob = await w.customer("bob");
  });

  describe("the process", () => {
    test("answers that it lives and that its database does", async () => {
      for (const path of ["/healthz", "/readyz"]) {
        const answer = await w.api.get(path);
        expect(answer.json).toEqual({ ok: true });
        expect(answer.headers.get("x-request-id")).toMatch(/^req_/);
        expect(answer.headers.get("content-security-policy")).toContain("default-src 'none'");
      }
    });

    test("describes every route it has at /openapi.json", async () => {
      const document = await w.api.ok("GET", "/openapi.json");
      expect(document.openapi).toBe("3.1.0");
      const app = createApp({ settings: { publicUrl: "http://localhost" } } as Ports, { addressOf: () => "" });
      for (const { method, path } of app.routes.filter((r) => r.method !== "ALL")) {
        const operation = document.paths[path.replaceAll(/:([A-Za-z]+)/g, "{$1}")]?.[method.toLowerCase()];
        expect(operation, `${method} ${path}`).toMatchObject({ summary: expect.any(String), responses: {} });
        expect(operation["x-permission"], `${method} ${path}`).toBeTypeOf("string");
      }
    });
  });

  describe("signing in", () => {
    test("gives a session that stands for the account", async () => {
      const answer = await w.api.post("/sessions", { body: { name: "alice", password: PASSWORD } });
      expect(answer.status).toBe(201);
      expect(answer.json).toMatchObject({ token: expect.stringMatching(/^tl_sess_/), user: { id: alice.id } });
      const me = await w.api.ok("GET", "/me", { token: answer.json.token });
      expect(me).toMatchObject({ id: alice.id, name: "alice", role: "customer", certification: "passed" });
      expect(me.permissions).toContain("orders:write");
    });

    test("refuses a wrong password and an unknown name alike", async () => {
      const wrong = await w.api.post("/sessions", { body: { name: "alice", password: "not the password" } });
      const nobody = await w.api.post("/sessions", { body: { name: "nobody", password: "not the password" } });
      for (const answer of [wrong, nobody]) expectProblem(answer, 401, "bad_credentials");
      expect({ ...wrong.json, requestId: "" }).toEqual({ ...nobody.json, requestId: "" });
    });

    test("ends with signing out", async () => {
      const token = await w.api.signIn("alice", PASSWORD);
      expect((await w.api.call("DELETE", "/sessions/current", { token })).status).toBe(204);
      expectProblem(await w.api.get("/me", { token }), 401, "unauthenticated");
    });

    test("as a cookie changes things only from an allowed origin", async () => {
      const body = { name: "alice", password: PASSWORD, cookie: true };
      const answer = await w.api.post("/sessions", { body });
      expect(answer.json.token).toBeUndefined();
      const cookie = answer.headers.get("set-cookie") ?? "";
      expect(cookie).toMatch(/HttpOnly.*SameSite=Lax/);
      const headers = { cookie: cookie.split(";")[0] as string };
      expect((await w.api.get("/me", { headers })).status).toBe(200);
      expectProblem(await w.api.call("DELETE", "/sessions/current", { headers }), 403, "origin_refused");
    });

    test("is slowed down for whoever guesses", async () => {
      const guess = () => w.api.post("/sessions", { body: { name: "guessed", password: "not the password" } });
      for (let i = 0; i < 10; i++) expectProblem(await guess(), 401, "bad_credentials");
      const answer = await guess();
      expectProblem(answer, 429, "rate_limited");
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    });
  });

  describe("the catalogue", () => {
    test("that an operator puts is what a customer reads", async () => {
      const catalogue = await w.api.ok("GET", "/catalogue", { token: alice.token });
      expect(catalogue).toEqual({
        products: [{ id: "golden", name: "Golden line", lineType: "golden", onSale: true }],
        regions: [
          { id: "cn-shanghai", name: "Shanghai", saleable: true, sourceRegionId: null },
          { id: "uae-dubai", name: "Dubai", saleable: true, sourceRegionId: "cn-shanghai" },
        ],
        prices: [
          {
            id: PRICE_ID,
            productId: "golden",
            regionId: "uae-dubai",
            monthlyFen: MONTHLY_FEN,
            quarterDiscountBps: 500,
            halfYearDiscountBps: 0,
            yearDiscountBps: 1_250,
            onSale: true,
          },
        ],
        serviceTypes: [{ id: "TK-1", name: "TK" }],
      });
    });

    test("is replaced by putting it again, and leads nowhere unknown", async () => {
      const body = { name: "Silvery line", lineType: "silvery" };
      await w.api.ok("PUT", "/products/silvery", { token: w.admin, body });
      const again = await w.api.ok("PUT", "/products/silvery", { token: w.admin, body: { ...body, onSale: false } });
      expect(again).toMatchObject({ id: "silvery", onSale: false });
      const lost = { token: w.admin, body: { name: "Lost", sourceRegionId: "nowhere" } };
      expectProblem(await w.api.put("/regions/lost", lost), 409, "region_not_configured");
      const price = { token: w.admin, body: { monthlyFen: 1 } };
      expectProblem(await w.api.put("/products/golden/regions/nowhere/price", price), 404, "not_found");
    });
  });

  describe("buying", () => {
    const quote = (customer: Customer, body: Record<string, unknown>) =>
      w.api.post("/quotes", { token: customer.token, body: { priceId: PRICE_ID, ...body } });

    test.each([
      // [charge type, periods, quantity, months, total in fen: rounded half up once for a line item]
      ["month", 2, 1, 2, 20_002],
      ["quarter", 2, 1, 6, 60_006 - 3_000],
      ["half_year", 1, 2, 6, 120_012],
      ["year", 1, 3, 12, 3 * (120_012 - 15_002)],
    ])("a quote for %s × %i, %i pieces", async (chargeType, periods, quantity, months, totalFen) => {
      const { status, json } = await quote(alice, { chargeType, periods, quantity });
      expect(status).toBe(201);
      expect(json).toMatchObject({ months, totalFen, chargeType, periods, quantity });
      expect(json.lines.reduce((sum: number, line: { amountFen: number }) => sum + line.amountFen, 0)).toBe(totalFen);
      expect(await w.api.ok("GET", `/quotes/${json.id}`, { token: alice.token })).toEqual(json);
    });

    test("from the wallet: quote, order, pay, and all of it reads back", async () => {
      const before = await w.api.ok("GET", "/wallet", { token: alice.token });
      const order = await w.order(alice);
      expect(order).toMatchObject({ state: "pending", amountFen: MONTHLY_FEN, userId: alice.id, quantity: 1 });
      const pay = { token: alice.token, body: { channel: "balance" } };
      const paid = await w.api.ok("POST", `/orders/${order.id}/pay`, pay);
      expect(paid).toMatchObject({ id: order.id, state: "paid", paidAt: expect.stringMatching(/Z$/) });

      // A process with a job runner may have begun to fulfil it.
      const read = await w.api.ok("GET", `/orders/${order.id}`, { token: alice.token });
      expect(read.state).toBeOneOf(["paid", "processing"]);
      expect(read).toEqual({ ...paid, state: read.state });
      const wallet = await w.api.ok("GET", "/wallet", { token: alice.token });
      expect(wallet.balanceFen).toBe(before.balanceFen - MONTHLY_FEN);
      const { items } = await w.api.ok("GET", "/wallet/entries", { token: alice.token });
      expect(items[0]).toMatchObject({ amountFen: -MONTHLY_FEN, cause: `order:${order.id}:charge` });
      expect(items.reduce((sum: number, entry: { amountFen: number }) => sum + entry.amountFen, 0)).toBe(
        wallet.balanceFen,
      );
      expect(await w.api.ok("GET", `/users/${alice.id}/wallet`, { token: w.admin })).toEqual(wallet);
      const audit = await w.api.ok("GET", `/audit?subject=${order.id}`, { token: w.admin });
      expect(audit.items.map((row: { action: string }) => row.action)).toEqual(
        expect.arrayContaining(["order.create", "order.pay"]),
      );

      expectProblem(await w.api.post(`/orders/${order.id}/pay`, pay), 409, "order_not_payable");
      const cancel = await w.api.post(`/orders/${order.id}/cancel`, { token: alice.token });
      expectProblem(cancel, 409, "order_not_cancellable");
    });

    test("needs money, a known channel and certification, and takes nothing without", async () => {
      const order = await w.order(bob);
      const pay = (channel: string) => w.api.post(`/orders/${order.id}/pay`, { token: bob.token, body: { channel } });
      expectProblem(await pay("balance"), 409, "balance_too_low");
      expectProblem(await pay("alipay"), 409, "channel_not_configured");
      expect(await w.api.ok("GET", `/orders/${order.id}`, { token: bob.token })).toMatchObject({ state: "pending" });

      const carol = await w.customer("carol", { certified: false });
      const { json } = await quote(carol, { chargeType: "month", periods: 1 });
      const body = { quoteId: json.id, serviceTypeIds: ["TK-1"] };
      expectProblem(await w.api.post("/orders", { token: carol.token, body }), 403, "not_certified");
    });

    test("orders a quote once, and only as it was priced", async () => {
      const body = { quoteId: (await quote(alice, { chargeType: "month", periods: 1 })).json.id };
      const order = (serviceTypeIds: string[]) =>
        w.api.post("/orders", { token: alice.token, body: { ...body, serviceTypeIds } });
      expectProblem(await order(["XX-9"]), 404, "service_type_not_found");
      expect((await order(["TK-1"])).status).toBe(201);
      expectProblem(await order(["TK-1"]), 409, "quote_stale");
      const unknown = await quote(alice, { priceId: "products/no/regions/no", chargeType: "month", periods: 1 });
      expectProblem(unknown, 404, "price_not_found");
      const many = await quote(alice, { chargeType: "month", periods: 1, quantity: 51 });
      expectProblem(many, 422, "quantity_out_of_range");
    });

    test("ends with cancelling, after which nothing can be paid", async () => {
      const order = await w.order(alice);
      const cancelled = await w.api.ok("POST", `/orders/${order.id}/cancel`, { token: alice.token });
      expect(cancelled).toMatchObject({ state: "cancelled", endedAt: expect.stringMatching(/Z$/) });
      const pay = { token: alice.token, body: { channel: "balance" } };
      expectProblem(await w.api.post(`/orders/${order.id}/pay`, pay), 409, "order_not_payable");
    });

    test("charges once when ten requests pay the same order at once", async () => {
      const before = await w.api.ok("GET", "/wallet", { token: alice.token });
      const order = await w.order(alice);
      const pay = { token: alice.token, body: { channel: "balance" } };
      const answers = await Promise.all(Array.from({ length: 10 }, () => w.api.post(`/orders/${order.id}/pay`, pay)));
      expect(answers.filter((answer) => answer.status === 200)).toHaveLength(1);
      for (const answer of answers) if (answer.status !== 200) expectProblem(answer, 409, "order_not_payable");
      const after = await w.api.ok("GET", "/wallet", { token: alice.token });
      expect(after.balanceFen).toBe(before.balanceFen - MONTHLY_FEN);
    });
  });

  doorContract(() => w);
}
