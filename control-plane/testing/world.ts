import { and, eq, inArray, ne, sql } from "drizzle-orm";
import { toBase64 } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import type { EnrolRequest, HostRole } from "../../shared/protocol/enrolment.ts";
import type { Role } from "../db/schema/index.ts";
import * as t from "../db/schema/index.ts";
import { transaction } from "../db/transaction.ts";
import { insertUser } from "../services/accounts/create-user.ts";
import { putPrice, putProduct, putRegion, putServiceType } from "../services/catalogue/put.ts";
import { type Context, makeId, systemContext } from "../services/context.ts";
import { enrolHost } from "../services/hosts/enrol.ts";
import { createEnrolmentToken } from "../services/hosts/enrolment-tokens.ts";
import { createPair } from "../services/hosts/pairs.ts";
import { approveHost, updateHost } from "../services/hosts/update.ts";
import { createOrder } from "../services/orders/create.ts";
import { payOrder } from "../services/orders/pay.ts";
import { ROLE_PERMISSIONS } from "../services/permissions.ts";
import { createQuote } from "../services/quotes/create.ts";
import { freshToken } from "../services/secrets.ts";
import { creditWallet } from "../services/wallet/credit.ts";
import type { Harness } from "./harness.ts";

export const PASSWORD = "correct horse battery";
export const PRICE_ID = "products/path-golden/regions/uae-dubai";
export const MONTHLY_FEN = 10_000;
export const SERVICE_TYPE = "TK-1";

/** An account of a test, with a session and a context to call verbs with. */
export type Person = { id: Id<"usr">; name: string; token: string; auth: Record<string, string>; ctx: Context };

/** A context of the system itself. */
export function systemOf(h: Harness): Context {
  return systemContext(h.ports, "test");
}

/** Makes an account of that role, signed in. */
export async function makePerson(h: Harness, role: Role, name: string, ownerId?: Id<"usr">): Promise<Person> {
  const { ports } = h;
  const passwordHash = await ports.passwords.hash(PASSWORD);
  const { token, hash } = await freshToken(ports, "sess");
  const session = makeId(ports, "ses");
  const user = await transaction(systemOf(h), async (tx) => {
    const row = await insertUser(systemOf(h), tx, { name, role, passwordHash });
    // No verb makes sub-accounts yet: the row is what it will be.
    if (ownerId !== undefined) await tx.db.update(t.users).set({ ownerId }).where(eq(t.users.id, row.id));
    await tx.db.insert(t.sessions).values({
      id: session,
      userId: row.id,
      tokenHash: hash,
      createdAt: ports.clock.now(),
      expiresAt: ports.clock.now() + ports.settings.sessionLifetimeMs,
    });
    return row;
  });
  return {
    id: user.id,
    name,
    token,
    auth: { authorization: `Bearer ${token}` },
    ctx: {
      ports,
      actor: {
        kind: "user",
        userId: user.id,
        role,
        ownerId: ownerId ?? null,
        permissions: ROLE_PERMISSIONS[role],
        credential: session,
      },
    },
  };
}

/** A customer who may order, with money in the wallet. */
export async function makeCustomer(h: Harness, name: string, balanceFen = 0): Promise<Person> {
  const person = await makePerson(h, "customer", name);
  await transaction(systemOf(h), (tx) =>
    tx.db.update(t.users).set({ certification: "passed" }).where(eq(t.users.id, person.id)),
  );
  if (balanceFen > 0) await creditWallet(systemOf(h), person.id, { amountFen: balanceFen, reason: "for the test" });
  return person;
}

/** One product, one source and one destination region, one price, one whitelist. */
export async function stockCatalogue(h: Harness): Promise<void> {
  const ctx = systemOf(h);
  await putRegion(ctx, "cn-guangzhou", { name: "Guangzhou", saleable: false, sourceRegionId: null });
  await putRegion(ctx, "hk", { name: "Hong Kong", saleable: false, sourceRegionId: null });
  await putRegion(ctx, "uae-dubai", { name: "Dubai", saleable: true, sourceRegionId: "cn-guangzhou" });
  await putProduct(ctx, "path-golden", { name: "Golden", lineType: "golden", onSale: true });
  await putPrice(ctx, "path-golden", "uae-dubai", {
    monthlyFen: MONTHLY_FEN,
    quarterDiscountBps: 500,
    halfYearDiscountBps: 1000,
    yearDiscountBps: 2000,
    onSale: true,
  });
  await putServiceType(ctx, SERVICE_TYPE, { name: "TK one", cidrs: ["203.0.113.0/24"], domains: [] });
}

const REGION_OF: Readonly<Record<HostRole, string>> = {
  boarding: "cn-guangzhou",
  forward: "hk",
  exit: "uae-dubai",
};

export function key32(h: Harness): string {
  return toBase64(h.ports.random.bytes(32));
}

export function enrolRequest(h: Harness, role: HostRole): EnrolRequest {
  return {
    role,
    version: "1.0.0",
    identityPublicKey: key32(h),
    boxPublicKey: key32(h),
    wireguardPublicKey: role === "exit" ? key32(h) : null,
    facts: { hostname: role, os: "Debian 12", kernel: "6.1", arch: "x64", capabilities: ["nft"], addresses: [] },
  };
}

let nextAddress = 0;

/** Hosts of one role, enrolled with one token, approved and given their public addresses. They are not up yet: see {@link hostsUp}. */
export async function enrolHosts(h: Harness, role: HostRole, count: number): Promise<Id<"hst">[]> {
  const ctx = systemOf(h);
  const regionId = REGION_OF[role];
  const { token } = await createEnrolmentToken(ctx, { role, regionId, maxUses: count, expiresInS: 3600 });
  const ids: Id<"hst">[] = [];
  for (let i = 0; i < count; i++) {
    const { hostId } = await enrolHost(ctx, token, enrolRequest(h, role));
    await approveHost(ctx, hostId);
    const n = ++nextAddress;
    await updateHost(ctx, hostId, { publicAddress: `198.${18 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}` });
    ids.push(hostId);
  }
  return ids;
}

/** What agents would report: every approved host (or those given) is linked and has applied its newest revision. */
export async function hostsUp(h: Harness, ids?: readonly Id<"hst">[]): Promise<void> {
  await h.ports.db.write((tx) =>
    tx
      .update(t.hosts)
      .set({
        state: "online",
        lastSeenAt: h.clock.now(),
        appliedRev: sql`desired_rev`,
        appliedResults: [],
        appliedAt: h.clock.now(),
      })
      .where(
        and(
          eq(t.hosts.approved, true),
          // Nothing a host reports brings it back from retirement.
          ne(t.hosts.state, "retired"),
          ids === undefined ? undefined : inArray(t.hosts.id, [...ids]),
        ),
      ),
  );
}

/** One boarding host, forward hosts with a range of ports each, exits; all up. */
export async function makeNetwork(
  h: Harness,
  { forwards = 1, exits = 1, ports = 50 }: { forwards?: number; exits?: number; ports?: number } = {},
) {
  const [boarding] = await enrolHosts(h, "boarding", 1);
  if (boarding === undefined) throw new Error("no boarding host");
  const forwardIds = await enrolHosts(h, "forward", forwards);
  const exitIds = await enrolHosts(h, "exit", exits);
  for (const [i, forwardHostId] of forwardIds.entries())
    await createPair(systemOf(h), {
      boardingHostId: boarding,
      forwardHostId,
      startPort: 30_000 + i * 1000,
      maxLoad: ports,
    });
  await hostsUp(h);
  return { boarding, forwards: forwardIds, exits: exitIds };
}

export type Network = Awaited<ReturnType<typeof makeNetwork>>;

/** Quotes and orders lines; not paid yet. */
export async function orderLines(who: Person, quantity = 1): Promise<Id<"ord">> {
  const quote = await createQuote(who.ctx, { priceId: PRICE_ID, chargeType: "month", periods: 1, quantity });
  const order = await createOrder(who.ctx, { quoteId: quote.id, serviceTypeIds: [SERVICE_TYPE] });
  return order.id;
}

/** Buys lines and drives them through fulfilment and provisioning until they are active; needs as many free exits. */
export async function buyLines(h: Harness, who: Person, quantity = 1): Promise<Id<"lin">[]> {
  await creditWallet(systemOf(h), who.id, { amountFen: quantity * MONTHLY_FEN, reason: "for the test" });
  const orderId = await orderLines(who, quantity);
  await payOrder(who.ctx, orderId, { channel: "balance" });
  for (let round = 0; round < 10; round++) {
    await h.runJobs();
    const rows = await linesOf(h, orderId);
    if (rows.length === quantity && rows.every((line) => line.state === "active")) return rows.map((line) => line.id);
    h.clock.advance(5_000);
    await hostsUp(h);
  }
  throw new Error(`the lines of ${orderId} did not come up`);
}

/** A catalogue, a network that is up, and a customer whose lines on it are active: where tests of hosts and connections begin. */
export async function networkWithLines(
  h: Harness,
  { lines = 1, ...size }: { lines?: number } & Parameters<typeof makeNetwork>[1] = {},
) {
  await stockCatalogue(h);
  const network = await makeNetwork(h, size);
  const who = await makeCustomer(h, "customer");
  const lineIds = await buyLines(h, who, lines);
  return { network, who, lineIds, lineId: lineIds[0] as Id<"lin"> };
}

export function linesOf(h: Harness, orderId: Id<"ord">) {
  return h.ports.db.read
    .select({ id: t.lines.id, state: t.lines.state, exitHostId: t.lines.exitHostId, resourceId: t.lines.resourceId })
    .from(t.lines)
    .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
    .where(eq(t.resources.orderId, orderId));
}
