import { sql } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ERROR_CODES } from "../../shared/errors.ts";
import { type Dice, dice, pick } from "../../shared/testing/dice.ts";
import { throwOne } from "../../shared/testing/fuzz.ts";
import { checkLedger } from "../services/wallet/check.ts";
import { type Harness, openHarness } from "../testing/harness.ts";
import { note, propertySeed } from "../testing/note.ts";
import { makeThings, pathOf, type Things } from "../testing/route-table.ts";
import { operationsOf } from "./openapi.ts";

/** How many requests: `FC_RUNS` for more. */
const REQUESTS = Number(process.env.FC_RUNS ?? 10_000);

let h: Harness;
let things: Things;
beforeAll(async () => {
  h = await openHarness({ settings: { signInLimit: 1_000_000 } });
  things = await makeThings(h);
});
afterAll(() => h?.close());

/** What a wallet holds in all, and what no customer may give itself. */
async function treasures() {
  const { read } = h.ports.db;
  const [wallets] = await read.all<{ fen: number }>(
    sql`SELECT SUM(balance_fen) AS fen FROM ledger_accounts WHERE id LIKE 'wallet:%'`,
  );
  const operators = await read.all(sql`SELECT name, role FROM users WHERE role <> 'customer' ORDER BY name`);
  const hosts = await read.all(sql`SELECT id, approved, state, public_address FROM hosts ORDER BY id`);
  const prices = await read.all(sql`SELECT * FROM prices`);
  return { fen: wallets?.fen ?? 0, rights: { operators, hosts, prices } };
}

/** Values for the parameters of a path: mostly right, so that requests get further than the door. */
function idsFor(random: Dice): Record<string, string> {
  const all = Object.values(things.ids);
  return Object.fromEntries(
    Object.entries(things.ids).map(([name, id]) => {
      const fate = random();
      if (fate < 0.8) return [name, id];
      return [name, fate < 0.9 ? (pick(all, Math.floor(random() * all.length)) ?? id) : encodeURIComponent(`${id}'"`)];
    }),
  );
}

test("ten thousand mutated requests, by nobody and by customers: none crashes, each answer has a code of the list, nobody gains anything", async () => {
  const random = dice(propertySeed("requests"));
  // Without signing out: whoever did would be nobody from then on.
  const operations = operationsOf(h.app).filter(({ path }) => path !== "/sessions/current");
  const before = await treasures();
  const byStatus: Record<string, number> = {};
  const byKind: Record<string, number> = {};
  const faults: string[] = [];
  const callers: Record<string, string>[] = [
    {},
    things.owner.auth,
    things.owner.auth,
    things.stranger.auth,
    { authorization: `Bearer ${things.lineToken}` },
    { authorization: "Bearer tl_sess_nonsense" },
  ];
  for (let n = 0; n < REQUESTS; n++) {
    const operation = pick(operations, Math.floor(random() * operations.length));
    const auth = pick(callers, Math.floor(random() * callers.length));
    if (operation === undefined || auth === undefined) continue;
    const { method, path } = operation;
    const sample = things.bodies[`${method} ${path}`] ?? { limit: 1, cursor: "x", state: "dead" };
    const thrown = throwOne(random, [sample]);
    byKind[thrown.kind] = (byKind[thrown.kind] ?? 0) + 1;
    const query =
      random() < 0.2
        ? `?limit=${encodeURIComponent(
            String(thrown.data)
              .slice(0, 50)
              .replace(/[\ud800-\udfff]/g, ""),
          )}`
        : "";
    const headers = { ...auth, "content-type": random() < 0.95 ? "application/json" : "text/plain" };
    const init = { method, headers, ...(method === "GET" ? {} : { body: thrown.data as string }) };
    const response = await h.app.request(pathOf(path, idsFor(random)) + query, init);
    const { status } = response;
    byStatus[status] = (byStatus[status] ?? 0) + 1;
    const text = await response.text();
    if (status < 400) continue;
    const code = (JSON.parse(text) as { code?: string }).code;
    if (status >= 500 || code === undefined || !(code in ERROR_CODES))
      faults.push(`${method} ${path}: ${status} ${text.slice(0, 200)} for ${String(thrown.data).slice(0, 200)}`);
  }
  note(`requests: ${REQUESTS} by kind ${JSON.stringify(byKind)}, answers ${JSON.stringify(byStatus)}`);
  expect(faults).toEqual([]);
  expect(h.errors).toEqual([]);
  const after = await treasures();
  expect(after.rights).toEqual(before.rights);
  // Customers may have bought something; nobody has more than before.
  expect(after.fen).toBeLessThanOrEqual(before.fen);
  expect(await checkLedger(h.ports.db.read)).toEqual([]);
  expect((await h.request("GET", "/readyz")).status).toBe(200);
}, 600_000);
