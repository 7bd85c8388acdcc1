import { readFileSync } from "node:fs";
import { type AgentOptions, enrolAgent, type LabAgent } from "./agent.ts";
import { type Answer, Api } from "./api.ts";
import type { ControlPlane } from "./control-plane.ts";
import { type Lab, type LabHost, WEB_LISTED } from "./lab.ts";
import { poll } from "./poll.ts";

/** The parts of the story that the demo and the tests share, all over the public API. */

export const SOURCE_REGION = "cn-guangzhou";
export const FORWARD_REGION = "hongkong";
export const DESTINATION_REGION = "uae-dubai";
export const PRICE_ID = `products/path-golden/regions/${DESTINATION_REGION}`;
export const SERVICE_TYPE = "TK-1";
/** Every forward and exit of a lab is on this one private network. */
const PRIVATE_NETWORK = "udpn";

/** Signs in as the administrator, with the one-time password that the first start printed. */
export async function signInAsAdmin(lab: Lab, cp: ControlPlane): Promise<Api> {
  const printed = readFileSync(lab.logFile("control-plane"), "utf8");
  const password = /^ {2}password: (\S+)$/m.exec(printed)?.[1];
  if (password === undefined) throw new Error("the control plane printed no one-time password");
  return new Api(cp.localUrl).signIn("admin", password);
}

/** An operator puts a catalogue in place: regions, a product with a price, a whitelist with the listed site. */
export async function putCatalogue(admin: Api, options: { monthlyFen?: number; cidrs?: string[] } = {}): Promise<void> {
  await admin.put(`/regions/${SOURCE_REGION}`, { name: "Guangzhou", saleable: false });
  await admin.put(`/regions/${FORWARD_REGION}`, { name: "Hong Kong", saleable: false });
  await admin.put(`/regions/${DESTINATION_REGION}`, { name: "Dubai", sourceRegionId: SOURCE_REGION });
  await admin.put("/products/path-golden", { name: "Golden path", lineType: "golden" });
  await admin.put(`/products/path-golden/regions/${DESTINATION_REGION}/price`, {
    monthlyFen: options.monthlyFen ?? 29_900,
    quarterDiscountBps: 500,
    halfYearDiscountBps: 1000,
    yearDiscountBps: 2000,
  });
  await admin.put(`/service-types/${SERVICE_TYPE}`, { name: "Sites", cidrs: options.cidrs ?? [`${WEB_LISTED}/32`] });
}

export type EnrolledHost = { id: string; agent: LabAgent; host: LabHost };

const REGION_OF = { boarding: SOURCE_REGION, forward: FORWARD_REGION, exit: DESTINATION_REGION } as const;
export type AgentRole = keyof typeof REGION_OF;

/** Enrols and starts the agent of one host, and lets it in with its addresses. Resolves once it is linked and in sync. */
export async function enrolHost(
  lab: Lab,
  cp: ControlPlane,
  admin: Api,
  host: LabHost,
  options: Pick<AgentOptions, "argv"> = {},
): Promise<EnrolledHost> {
  const role = host.kind as AgentRole;
  const before = new Set(((await admin.get("/hosts?limit=200")).items as Answer[]).map((h) => h.id));
  const { token } = await admin.post("/enrolment-tokens", { role, regionId: REGION_OF[role] });
  const agent = await enrolAgent(lab, host, token, { url: cp.url, ...options });
  const hosts: Answer[] = (await admin.get("/hosts?limit=200")).items;
  const id = hosts.find((h) => !before.has(h.id) && h.role === role)?.id;
  if (id === undefined) throw new Error(`${host.name} enrolled, but the control plane does not list it`);
  await admin.patch(`/hosts/${id}`, {
    name: host.name,
    publicAddress: host.address,
    ...(host.privateAddress === undefined
      ? {}
      : { privateAddress: host.privateAddress, privateNetwork: PRIVATE_NETWORK }),
  });
  await admin.post(`/hosts/${id}/approve`);
  await untilInSync(admin, id);
  return { id, agent, host };
}

/**
 * Waits until a host is linked and has verified its newest state; with `since`, until it has said so after that moment
 * (UTC ms), which a host that was in sync before can't do without joining again.
 */
export async function untilInSync(
  admin: Api,
  hostId: string,
  options: { timeoutMs?: number; since?: number } = {},
): Promise<Answer> {
  const { timeoutMs = 20_000, since = 0 } = options;
  return poll(
    async () => {
      const host = await admin.get(`/hosts/${hostId}`);
      const { inSync, appliedAt } = host.configuration;
      return host.link.online && inSync && Date.parse(appliedAt) >= since && host;
    },
    { what: `host ${hostId} to be in sync`, timeoutMs, everyMs: 50 },
  );
}

/** A certified customer with money in its wallet. */
export async function makeCustomer(admin: Api, name: string, amountFen = 1_000_000): Promise<{ api: Api; id: string }> {
  const password = `${name}-s-password`;
  const { id } = await admin.post("/users", { name, password });
  await admin.post(`/users/${id}/certification`, { state: "passed", reason: "passport seen" });
  await admin.post(
    `/users/${id}/credits`,
    { amountFen, reason: "first deposit" },
    { "idempotency-key": `first-deposit-${name}` },
  );
  return { api: await new Api(admin.baseUrl).signIn(name, password), id };
}

/** Quote, order, pay from the wallet. Answers the paid order. */
export async function orderLine(customer: Api, quantity = 1): Promise<{ quote: Answer; order: Answer }> {
  const quote = await customer.post("/quotes", { priceId: PRICE_ID, chargeType: "month", periods: 1, quantity });
  const order = await customer.post("/orders", { quoteId: quote.id, serviceTypeIds: [SERVICE_TYPE] });
  return { quote, order: await customer.post(`/orders/${order.id}/pay`, { channel: "balance" }) };
}

/** Waits until a paid order is complete; answers its lines. */
export async function untilCompleted(customer: Api, orderId: string, timeoutMs = 20_000): Promise<Answer[]> {
  await poll(
    async () => {
      const { state } = await customer.get(`/orders/${orderId}`);
      if (state === "failed") throw new Error("the order failed");
      return state === "completed";
    },
    { what: `order ${orderId} to be completed`, timeoutMs, everyMs: 50 },
  );
  return (await customer.get(`/lines?orderId=${orderId}`)).items;
}

/** Opens the line's connection with its token, as a client does, and waits until its hosts hold it. */
export async function openLine(baseUrl: string, lineToken: string, waitMs = 10_000): Promise<Answer> {
  const opened = await new Api(baseUrl, lineToken).post(`/connections?waitMs=${waitMs}`, { generate: true });
  if (!opened.ready.forward || !opened.ready.exit)
    throw new Error(`the connection is not ready: ${JSON.stringify(opened.ready)}`);
  return opened;
}
