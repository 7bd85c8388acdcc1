import { eq } from "drizzle-orm";
import { sha256Hex } from "../../shared/canonical.ts";
import { newId } from "../../shared/ids.ts";
import * as t from "../db/schema/index.ts";
import { transaction } from "../db/transaction.ts";
import { createApiToken } from "../services/accounts/api-tokens.ts";
import { openConnection } from "../services/connections/open.ts";
import { makeId } from "../services/context.ts";
import { enrolHost } from "../services/hosts/enrol.ts";
import { createEnrolmentToken } from "../services/hosts/enrolment-tokens.ts";
import { createLineToken } from "../services/lines/tokens.ts";
import { freshToken } from "../services/secrets.ts";
import type { Harness } from "./harness.ts";
import {
  buyLines,
  enrolRequest,
  key32,
  linesOf,
  makeCustomer,
  makeNetwork,
  makePerson,
  orderLines,
  type Person,
  PRICE_ID,
  SERVICE_TYPE,
  stockCatalogue,
  systemOf,
} from "./world.ts";

/** One thing of every kind that a route can name, some of them another customer's. */
export type Things = {
  admin: Person;
  support: Person;
  finance: Person;
  owner: Person;
  stranger: Person;
  lineToken: string;
  enrolToken: string;
  uploadToken: string;
  ids: Record<string, string>;
  /** Bodies that would be taken, by operation. */
  bodies: Record<string, Record<string, unknown>>;
};

async function insertCapture(h: Harness, things: { lineId: string; hostId: string; by: Person }, token: string) {
  const now = h.clock.now();
  const id = makeId(h.ports, "cap");
  await transaction(systemOf(h), async (tx) =>
    tx.db.insert(t.captures).values({
      id,
      lineId: things.lineId as `lin_${string}`,
      hostId: things.hostId as `hst_${string}`,
      forwardHostId: things.hostId as `hst_${string}`,
      point: "tunnel",
      filter: "",
      reason: "test",
      seconds: 10,
      maxBytes: 10_000,
      snapLength: 128,
      state: "running",
      uploadTokenHash: await sha256Hex(token),
      requestedBy: things.by.id,
      createdAt: now,
      deleteAt: now + 1_000_000,
    }),
  );
  return id;
}

/** A rollout that has no hosts and is halted. */
async function insertRollout(h: Harness) {
  const id = makeId(h.ports, "rol");
  await h.ports.db.write((tx) =>
    tx.insert(t.rollouts).values({
      id,
      version: "1.1.0",
      manifest: "{}",
      signature: "",
      target: {},
      state: "halted",
      batch: 1,
      soakMs: 0,
      trialS: 60,
      older: false,
      resumes: 0,
      createdBy: "test",
      createdAt: h.clock.now(),
    }),
  );
  return id;
}

export async function makeThings(h: Harness): Promise<Things> {
  await stockCatalogue(h);
  const admin = await makePerson(h, "admin", "admin");
  const support = await makePerson(h, "support", "support");
  const finance = await makePerson(h, "finance", "finance");
  const network = await makeNetwork(h, { exits: 2 });
  const owner = await makeCustomer(h, "owner", 1_000_000);
  const stranger = await makeCustomer(h, "stranger", 1_000_000);
  const [lineId] = await buyLines(h, owner);
  if (lineId === undefined) throw new Error("no line");
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  const hostId = line?.exitHostId ?? "";
  const { token: lineToken, id: lineTokenId } = await createLineToken(owner.ctx, lineId, { name: "phone" });
  const connection = await openConnection(owner.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const orderId = await orderLines(owner);
  const [order] = await h.ports.db.read.select().from(t.orders).where(eq(t.orders.id, orderId));
  const enrolment = await createEnrolmentToken(admin.ctx, {
    role: "exit",
    regionId: "uae-dubai",
    maxUses: 5,
    expiresInS: 3600,
  });
  const pending = await enrolHost(systemOf(h), enrolment.token, enrolRequest(h, "exit"));
  const apiToken = await createApiToken(owner.ctx, { name: "router", scopes: ["lines:read"] });
  const { token: uploadToken } = await freshToken(h.ports, "up");
  const captureId = await insertCapture(h, { lineId, hostId, by: admin }, uploadToken);
  const [pair] = await h.ports.db.read.select().from(t.pairs).limit(1);
  const [job] = await h.ports.db.read.select().from(t.jobs).limit(1);
  await h.ports.db.write((tx) =>
    tx
      .update(t.jobs)
      .set({ state: "dead" })
      .where(eq(t.jobs.id, job?.id ?? "job_")),
  );
  if ((await linesOf(h, orderId)).length > 0) throw new Error("the order was not to be paid");

  return {
    admin,
    support,
    finance,
    owner,
    stranger,
    lineToken,
    enrolToken: enrolment.token,
    uploadToken,
    ids: {
      userId: owner.id,
      tokenId: apiToken.id,
      lineTokenId,
      lineId,
      connectionId: connection.id,
      orderId,
      quoteId: order?.quoteId ?? "",
      hostId: pending.hostId,
      pairId: pair?.id ?? "",
      captureId,
      jobId: job?.id ?? "",
      rolloutId: await insertRollout(h),
      productId: "path-golden",
      regionId: "uae-dubai",
      serviceTypeId: SERVICE_TYPE,
      version: "1.0.0",
      file: "agent.mjs",
    },
    bodies: {
      "POST /sessions": { name: "owner", password: "not the password" },
      "POST /me/password": { current: "not the password", next: "another good password" },
      "POST /api-tokens": { name: "router", scopes: ["me:read"] },
      "POST /users": { name: "newcomer", password: "a good password" },
      "POST /users/:userId/certification": { state: "passed", reason: "seen the papers" },
      "POST /users/:userId/credits": { amountFen: 100, reason: "goodwill" },
      "PUT /users/:userId/whitelist": { cidrs: ["203.0.113.0/24"] },
      "POST /hosts/:hostId/replace": { byHostId: network.forwards[0] },
      "PUT /products/:productId": { name: "Golden", lineType: "golden" },
      "PUT /regions/:regionId": { name: "Dubai" },
      "PUT /products/:productId/regions/:regionId/price": { monthlyFen: 1 },
      "PUT /service-types/:serviceTypeId": { name: "TK", cidrs: ["203.0.113.0/24"] },
      "POST /quotes": { priceId: PRICE_ID, chargeType: "month", periods: 1 },
      "POST /orders": { quoteId: order?.quoteId, serviceTypeIds: [SERVICE_TYPE] },
      "POST /orders/:orderId/pay": { channel: "balance" },
      "PATCH /lines/:lineId": { mtu: 1380 },
      "POST /lines/:lineId/tokens": { name: "phone" },
      "POST /connections": { lineId, clientPublicKey: key32(h) },
      "POST /lines/:lineId/pings": { count: 1 },
      "POST /lines/:lineId/captures": { reason: "looking for loss" },
      "POST /enrolment-tokens": { role: "exit", regionId: "uae-dubai" },
      "POST /agent/enrol": { ...enrolRequest(h, "exit") },
      "PATCH /hosts/:hostId": { name: "renamed" },
      "POST /rollouts": { version: "1.1.0", target: { hostIds: [network.boarding] } },
      "POST /rollouts/:rolloutId/resume": { retry: true },
      "PATCH /pairs/:pairId": { maxLoad: 100 },
      "POST /pairs": { boardingHostId: network.boarding, forwardHostId: network.forwards[0] },
    },
  };
}

/** The path of an operation with its parameters filled in. */
export function pathOf(path: string, ids: Record<string, string>): string {
  return path.replaceAll(/:([A-Za-z]+)/g, (_, name: string) => {
    const value = ids[name];
    if (value === undefined) throw new Error(`no value for :${name} of ${path}`);
    return value;
  });
}

/** An id of that kind which names nothing. */
export function unknownId(id: string): string {
  const prefix = id.split("_")[0] as "usr";
  return newId(prefix, 1, new Uint8Array(10));
}
