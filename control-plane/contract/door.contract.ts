import { beforeAll, describe, expect, test } from "vitest";
import type { ErrorCode } from "../../shared/errors.ts";
import { type Call, expectProblem, RawBody } from "./client.ts";
import type { Customer, World } from "./world.ts";

/** The part of the API's contract that holds for every route: repeats, bad input, who may, lists. */
export function doorContract(world: () => World): void {
  let w: World;
  let dora: Customer;
  let erik: Customer;

  beforeAll(async () => {
    w = world();
    dora = await w.customer("dora", { creditFen: 100_000 });
    erik = await w.customer("erik");
  });

  describe("an Idempotency-Key", () => {
    test("gives the same answer, byte for byte, and makes the change once", async () => {
      const body = { amountFen: 777, reason: "a gift" };
      const credit = () => w.api.post(`/users/${erik.id}/credits`, { token: w.admin, key: "gift-1", body });
      const [first, second] = [await credit(), await credit()];
      expect(first.status).toBe(201);
      expect({ status: second.status, text: second.text }).toEqual({ status: 201, text: first.text });
      expect(second.headers.get("idempotency-replayed")).toBe("true");
      expect(await w.api.ok("GET", "/wallet", { token: erik.token })).toEqual({ balanceFen: 777 });
    });

    test("is refused with another body, and with another path", async () => {
      const key = "order-1";
      const order = await w.order(dora, key);
      const call = { token: dora.token, key, body: { channel: "balance" } };
      expectProblem(await w.api.post("/orders", call), 422, "idempotency_key_reused");
      expectProblem(await w.api.post(`/orders/${order.id}/pay`, call), 422, "idempotency_key_reused");
    });

    test("of a refused request may be used again", async () => {
      const order = await w.order(dora);
      const pay = (channel: string) =>
        w.api.post(`/orders/${order.id}/pay`, { token: dora.token, key: "pay-1", body: { channel } });
      expectProblem(await pay("epay"), 409, "channel_not_configured");
      expect((await pay("balance")).json).toMatchObject({ state: "paid" });
    });

    test("sent many times at once makes the change once", async () => {
      const before = await w.api.ok("GET", "/wallet", { token: dora.token });
      const order = await w.order(dora);
      const pay = { token: dora.token, key: "pay-2", body: { channel: "balance" } };
      const answers = await Promise.all(Array.from({ length: 8 }, () => w.api.post(`/orders/${order.id}/pay`, pay)));
      const done = answers.filter((answer) => answer.status === 200);
      expect(new Set(done.map((answer) => answer.text)).size).toBe(1);
      for (const answer of answers) if (answer.status !== 200) expectProblem(answer, 409, "idempotency_in_flight");
      const after = await w.api.ok("GET", "/wallet", { token: dora.token });
      expect(after.balanceFen).toBe(before.balanceFen - order.amountFen);
    });

    test("is one's own: another's same key is another key", async () => {
      const [mine, yours] = [await w.order(dora, "shared"), await w.order(erik, "shared")];
      expect(mine.id).not.toBe(yours.id);
    });
  });

  describe("bad input is a problem with a code, and changes nothing:", () => {
    const deep = `${"[".repeat(40)}${"]".repeat(40)}`;
    const quote = { priceId: "products/golden/regions/uae-dubai", chargeType: "month", periods: 1 };
    const cases: [what: string, method: string, path: string, call: Call, status: number, code: ErrorCode][] = [
      ["no body", "POST", "/quotes", {}, 422, "validation_failed"],
      ["an empty body", "POST", "/quotes", { body: {} }, 422, "validation_failed"],
      ["a wrong type", "POST", "/quotes", { body: { ...quote, periods: "1" } }, 422, "validation_failed"],
      ["a fraction", "POST", "/quotes", { body: { ...quote, periods: 1.5 } }, 422, "validation_failed"],
      ["out of range", "POST", "/quotes", { body: { ...quote, periods: 37 } }, 422, "validation_failed"],
      ["no such choice", "POST", "/quotes", { body: { ...quote, chargeType: "day" } }, 422, "validation_failed"],
      ["another thing's id", "POST", "/orders", { body: { quoteId: "ord_1" } }, 422, "validation_failed"],
      ["no JSON", "POST", "/quotes", { body: new RawBody("{") }, 400, "bad_json"],
      ["nested too deep", "POST", "/quotes", { body: new RawBody(deep) }, 400, "bad_json"],
      [
        "another type",
        "POST",
        "/quotes",
        { body: quote, headers: { "content-type": "text/plain" } },
        415,
        "unsupported_media_type",
      ],
      ["too large", "POST", "/quotes", { body: new RawBody(" ".repeat(1024 * 1024 + 1)) }, 413, "body_too_large"],
      ["a path that is none", "GET", "/nothing/here", {}, 404, "not_found"],
      ["an id that is none", "GET", "/orders/ord_1", {}, 404, "not_found"],
      ["an unknown id", "GET", `/orders/ord_${"0".repeat(26)}`, {}, 404, "not_found"],
      ["a method that is none", "PATCH", "/catalogue", {}, 405, "method_not_allowed"],
      ["a list too long", "GET", "/orders?limit=201", {}, 422, "validation_failed"],
      ["a list of none", "GET", "/orders?limit=0", {}, 422, "validation_failed"],
      ["a key with a space", "POST", "/orders", { key: "a key", body: {} }, 422, "validation_failed"],
    ];
    test.each(cases)("%s", async (_what, method, path, call, status, code) => {
      const answer = await w.api.call(method, path, { token: dora.token, ...call });
      expectProblem(answer, status, code);
      if (code === "validation_failed") expect(answer.json.issues[0]).toHaveProperty("path");
      if (code === "method_not_allowed") expect(answer.headers.get("allow")).toBe("GET");
    });

    test("an amount that is no whole number of fen moves no money", async () => {
      for (const amountFen of [0, -1, 0.5, 1e9, "1", null]) {
        const call = { token: w.admin, body: { amountFen, reason: "a slip" } };
        expectProblem(await w.api.post(`/users/${erik.id}/credits`, call), 422, "validation_failed");
      }
      expect(await w.api.ok("GET", "/wallet", { token: erik.token })).toEqual({ balanceFen: 777 });
    });
  });

  describe("who may:", () => {
    test("nobody without a token, on any route that is not public", async () => {
      const { paths } = await w.api.ok("GET", "/openapi.json");
      const closed = Object.entries<Record<string, { "x-permission": string }>>(paths).flatMap(([path, operations]) =>
        Object.entries(operations)
          .filter(([, operation]) => !["public", "own-credential"].includes(operation["x-permission"]))
          .map(([method]) => [method.toUpperCase(), path.replaceAll(/\{[^}]+\}/g, "x")] as const),
      );
      expect(closed.length).toBeGreaterThan(30);
      for (const [method, path] of closed) {
        const answer = await w.api.call(method, path);
        expectProblem(answer, 401, "unauthenticated");
        expect(answer.headers.get("www-authenticate")).toMatch(/^Bearer/);
      }
    });

    test("no token that stands for nobody", async () => {
      for (const token of [`tl_sess_${"A".repeat(43)}`, `tl_api_${"A".repeat(43)}`, `tl_line_${"A".repeat(43)}`, "x"])
        expectProblem(await w.api.get("/me", { token }), 401, "unauthenticated");
      const headers = { authorization: "Basic ZG9yYTpkb3Jh" };
      expectProblem(await w.api.get("/me", { headers }), 401, "unauthenticated");
    });

    test.each([
      ["GET", "/users"],
      ["POST", "/users"],
      ["POST", "/users/usr_00000000000000000000000000/credits"],
      ["PUT", "/products/golden"],
      ["GET", "/hosts"],
      ["GET", "/audit"],
      ["GET", "/jobs"],
    ])("no customer on an operator's %s %s", async (method, path) => {
      const body = method === "GET" ? {} : { body: {} };
      expectProblem(await w.api.call(method, path, { token: dora.token, ...body }), 403, "forbidden");
    });

    test("another's order and quote are like none at all", async () => {
      const order = await w.order(dora);
      const { quoteId } = await w.api.ok("GET", `/orders/${order.id}`, { token: dora.token });
      const { token } = erik;
      expectProblem(await w.api.get(`/orders/${order.id}`, { token }), 404, "not_found");
      expectProblem(await w.api.get(`/quotes/${quoteId}`, { token }), 404, "not_found");
      const pay = { token, body: { channel: "balance" } };
      expectProblem(await w.api.post(`/orders/${order.id}/pay`, pay), 404, "not_found");
      expectProblem(await w.api.post(`/orders/${order.id}/cancel`, { token }), 404, "not_found");
      expect(await w.api.ok("GET", `/orders/${order.id}`, { token: w.admin })).toMatchObject({ id: order.id });
    });

    test("an API token only what it was made for, until it is revoked", async () => {
      const body = { name: "soft router", scopes: ["wallet:read"] };
      const made = await w.api.ok("POST", "/api-tokens", { token: dora.token, body });
      expect((await w.api.get("/wallet", { token: made.token })).status).toBe(200);
      expectProblem(await w.api.get("/orders", { token: made.token }), 403, "forbidden");
      const more = { token: dora.token, body: { name: "more", scopes: ["users:write"] } };
      expectProblem(await w.api.post("/api-tokens", more), 403, "forbidden");
      expect((await w.api.call("DELETE", `/api-tokens/${made.id}`, { token: dora.token })).status).toBe(204);
      expectProblem(await w.api.get("/wallet", { token: made.token }), 401, "unauthenticated");
    });

    test("a name is given once", async () => {
      const body = { name: "dora", password: "another password" };
      expectProblem(await w.api.post("/users", { token: w.admin, body }), 409, "name_taken");
    });
  });

  test("lists go page by page, newest first, each thing once", async () => {
    const frank = await w.customer("frank");
    const made: string[] = [];
    for (let i = 0; i < 5; i++) made.push((await w.order(frank)).id);
    const seen: string[] = [];
    const sizes: number[] = [];
    let cursor: string | null = "";
    while (cursor !== null) {
      const query: string = cursor === "" ? "" : `&cursor=${cursor}`;
      const page = await w.api.ok("GET", `/orders?limit=2${query}`, { token: frank.token });
      seen.push(...page.items.map((order: { id: string }) => order.id));
      sizes.push(page.items.length);
      cursor = page.nextCursor;
    }
    expect(sizes).toEqual([2, 2, 1]);
    expect(seen).toEqual(made.reverse());
  });
}
