import { Client, type Target } from "./client.ts";

export type Customer = { id: string; name: string; token: string };

/** What the contract's tests share: an operator, a catalogue that sells one product, customers on demand. */
export type World = {
  api: Client;
  /** The administrator's session. */
  admin: string;
  customer(name: string, options?: { certified?: boolean; creditFen?: number }): Promise<Customer>;
  /** An order of that customer, one month of the product, not paid. */
  order(customer: Customer, key?: string): Promise<{ id: string; amountFen: number }>;
};

export const PASSWORD = "correct horse battery staple";
export const PRICE_ID = "products/golden/regions/uae-dubai";
export const MONTHLY_FEN = 10_001;

export async function makeWorld(target: Target): Promise<World> {
  const api = new Client(target);
  const admin = await api.signIn(target.admin.name, target.admin.password);
  const put = (path: string, body: unknown) => api.ok("PUT", path, { token: admin, body });
  await put("/regions/cn-shanghai", { name: "Shanghai" });
  await put("/regions/uae-dubai", { name: "Dubai", sourceRegionId: "cn-shanghai" });
  await put("/products/golden", { name: "Golden line", lineType: "golden" });
  await put("/products/golden/regions/uae-dubai/price", {
    monthlyFen: MONTHLY_FEN,
    quarterDiscountBps: 500,
    yearDiscountBps: 1_250,
  });
  await put("/service-types/TK-1", { name: "TK", cidrs: ["203.0.113.0/24"] });

  return {
    api,
    admin,
    async customer(name, { certified = true, creditFen = 0 } = {}) {
      const { id } = await api.ok("POST", "/users", { token: admin, body: { name, password: PASSWORD } });
      if (certified)
        await api.ok("POST", `/users/${id}/certification`, {
          token: admin,
          body: { state: "passed", reason: "papers seen" },
        });
      if (creditFen > 0)
        await api.ok("POST", `/users/${id}/credits`, {
          token: admin,
          body: { amountFen: creditFen, reason: "bank transfer" },
        });
      return { id, name, token: await api.signIn(name, PASSWORD) };
    },
    async order({ token }, key) {
      const quote = await api.ok("POST", "/quotes", {
        token,
        body: { priceId: PRICE_ID, chargeType: "month", periods: 1 },
      });
      return api.ok("POST", "/orders", {
        token,
        body: { quoteId: quote.id, serviceTypeIds: ["TK-1"] },
        ...(key === undefined ? {} : { key }),
      });
    },
  };
}
