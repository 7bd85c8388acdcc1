import { ne, sql } from "drizzle-orm";
import { expect, test, vi } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import { FileConnection } from "../../adapters/database/file-connection.ts";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import { runDueJobs } from "../../jobs/run-due.ts";
import { loadStates } from "../../link/identify.ts";
import { makeHarness } from "../../testing/harness.ts";
import { buyLines, hostsUp, key32, makeCustomer, makeNetwork, stockCatalogue, systemOf } from "../../testing/world.ts";
import { closeConnection } from "../connections/close.ts";
import { openConnection } from "../connections/open.ts";
import { joinHosts } from "./join.ts";
import { acknowledge, leaveHost, observe, touchSeen } from "./report.ts";

/** Ways to connections that do not lead past all those a host or a line ever had: by the active ones, by id, by when they closed. */
const FEW_CONNECTIONS =
  /INDEX (connections_(port|line) |sqlite_autoindex_connections_1 )|connections_recent .*closed_at/;

test("what hosts and connections do all day reads no table from end to end: its cost does not grow with the fleet", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  await makeNetwork(h, {});
  const customer = await makeCustomer(h, "customer");
  const [lineId] = await buyLines(h, customer);
  if (lineId === undefined) throw new Error("no line");
  await hostsUp(h);
  await h.ports.db.write((tx) => tx.update(t.hosts).set({ capacity: 1000 }).where(ne(t.hosts.role, "exit")));
  const ctx = systemOf(h);
  const hosts = await h.ports.db.read.select().from(t.hosts);

  const execute = vi.spyOn(FileConnection.prototype, "execute");
  const { id } = await openConnection(customer.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  await loadStates(
    ctx,
    hosts.map((host) => host.id),
    async () => {},
  );
  for (const host of hosts) {
    await transaction(ctx, (tx) => tx.touchHosts([host.id], "a test"));
    const hello = { t: "hello", hostId: host.id, epoch: host.epoch + 1, signature: "", version: "2" } as const;
    await joinHosts(ctx, [{ ...hello, bootId: "b", capabilities: [], applied: null }]);
    const ack = { rev: 1, sha256: "0".repeat(64), results: [] };
    await acknowledge(ctx, [{ hostId: host.id, epoch: host.epoch + 1, ...ack }]);
    await observe(ctx, host.id, host.epoch + 1, { load1: 1 }, []);
    await leaveHost(ctx, host.id, host.epoch + 1, "test");
  }
  await touchSeen(
    ctx,
    hosts.map((host) => ({ id: host.id, epoch: host.epoch + 1 })),
  );
  await closeConnection(customer.ctx, id as Id<"con">, 0);
  await runDueJobs(h.ports, 8);
  const statements = execute.mock.calls.map(([statement]) => statement as { sql: string; args: unknown[] });
  execute.mockRestore();

  const [{ file = "" } = {}] = await h.ports.db.read.all<{ file: string }>(sql`PRAGMA database_list`);
  const connection = new FileConnection(file);
  const whole: string[] = [];
  const closed: string[] = [];
  for (const { sql: text, args } of statements) {
    const { rows } = await connection.execute({ sql: `EXPLAIN QUERY PLAN ${text}`, args: args as never });
    for (const { detail } of rows as unknown as { detail: string }[]) {
      if (/^SCAN (?!json_each|\(?subquery|[0-9]* ?CONSTANT ROW)/.test(detail)) whole.push(`${detail}: ${text}`);
      if (/^(SCAN|SEARCH) connections\b/.test(detail) && !FEW_CONNECTIONS.test(detail))
        closed.push(`${detail}: ${text}`);
    }
  }
  connection.close();
  expect(statements.length).toBeGreaterThan(50);
  expect([...new Set(whole)]).toEqual([]);
  expect([...new Set(closed)]).toEqual([]);
});
