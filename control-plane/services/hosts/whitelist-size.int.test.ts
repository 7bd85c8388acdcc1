import { eq } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as t from "../../db/schema/index.ts";
import { type Harness, openHarness } from "../../testing/harness.ts";
import {
  buyLines,
  makeCustomer,
  makeNetwork,
  makePerson,
  type Person,
  PRICE_ID,
  stockCatalogue,
  systemOf,
} from "../../testing/world.ts";
import { putAccountWhitelist } from "../accounts/whitelist.ts";
import { putServiceType } from "../catalogue/put.ts";
import { createOrder } from "../orders/create.ts";
import { createQuote } from "../quotes/create.ts";
import { checkWhitelist, MOST_ENTRIES } from "./whitelist-size.ts";

let h: Harness;
let who: Person;
let admin: Person;

beforeAll(async () => {
  h = await openHarness();
  await stockCatalogue(h);
  await makeNetwork(h);
  admin = await makePerson(h, "admin", "admin");
  who = await makeCustomer(h, "customer");
  await buyLines(h, who);
});
afterAll(() => h?.close());

const cidrs = (n: number, block: number) => Array.from({ length: n }, (_, i) => `${block}.${i >> 8}.${i & 255}.0/24`);
const names = (n: number, tag: string) =>
  Array.from({ length: n }, (_, i) => `${tag}${i}.${"a".repeat(60)}.${"b".repeat(60)}.example`);
const code = (work: () => unknown) =>
  Promise.resolve()
    .then(work)
    .then(
      () => "done",
      (error: { code?: string }) => error.code,
    );
const put = (id: string, list: { cidrs: string[]; domains?: string[] }) =>
  code(() => putServiceType(systemOf(h), id, { name: id, domains: [], ...list }));

test("an order of service types whose whitelists together are more than a host takes is refused", async () => {
  for (const [id, block] of [
    ["TK-2", 20],
    ["TK-3", 21],
    ["TK-4", 22],
  ] as const)
    expect(await put(id, { cidrs: cidrs(10_000, block) })).toBe("done");
  const order = async (serviceTypeIds: string[]) => {
    const quote = await createQuote(who.ctx, { priceId: PRICE_ID, chargeType: "month", periods: 1, quantity: 1 });
    return code(() => createOrder(who.ctx, { quoteId: quote.id, serviceTypeIds }));
  };
  expect(await order(["TK-2", "TK-3", "TK-4"])).toBe("whitelist_too_large");
  // An entry that two lists share counts once.
  expect(await put("TK-4", { cidrs: cidrs(10_000, 21) })).toBe("done");
  expect(await order(["TK-2", "TK-3", "TK-4"])).toBe("done");
});

test("a service type does not grow beyond what a line with several of them can hold", async () => {
  const [line] = await h.ports.db.read.select().from(t.lines);
  if (line === undefined) throw new Error("no line");
  await put("TK-4", { cidrs: [] });
  const ids = ["TK-2", "TK-3", "TK-4"];
  await h.ports.db.write((tx) =>
    tx.insert(t.lineServiceTypes).values(ids.map((serviceTypeId) => ({ lineId: line.id, serviceTypeId }))),
  );
  const rev = async () =>
    (
      await h.ports.db.read
        .select()
        .from(t.hosts)
        .where(eq(t.hosts.id, line.exitHostId as never))
    )[0]?.desiredRev;
  const before = await rev();
  expect(await put("TK-4", { cidrs: cidrs(1, 23) })).toBe("whitelist_too_large");
  expect(await rev()).toBe(before);
  // A type of no line grows as it likes, up to what a host takes by itself.
  expect(await put("TK-9", { cidrs: cidrs(10_000, 23) })).toBe("done");
});

test("names that are too many bytes are refused, in a service type and in an account's own list", async () => {
  const list = { cidrs: [], domains: names(8_000, "n") };
  expect(await put("TK-9", list)).toBe("whitelist_too_large");
  expect(await code(() => putAccountWhitelist(systemOf(h), who.id, list))).toBe("whitelist_too_large");
  const answer = await h.request(
    "PUT",
    "/service-types/TK-9",
    { name: "TK", ...list, domains: names(7_500, "n") },
    { headers: admin.auth },
  );
  // The body's own limit comes first over HTTP.
  expect([413, 422]).toContain(answer.status);
});

test("the limit is the entries a host takes, to the last one", () => {
  const entries = (n: number) => [
    { cidrs: cidrs(n / 2, 30), domains: [] },
    { cidrs: cidrs(n / 2, 31), domains: [] },
  ];
  checkWhitelist(entries(MOST_ENTRIES), "x");
  expect(() => checkWhitelist(entries(MOST_ENTRIES + 2), "x")).toThrow(
    expect.objectContaining({ code: "whitelist_too_large" }),
  );
});
