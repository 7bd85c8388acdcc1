import { and, eq, sql } from "drizzle-orm";
import { expect, test } from "vitest";
import { isAppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, makeHarness, SilentFleet } from "../../testing/harness.ts";
import { note } from "../../testing/note.ts";
import { execute } from "../../testing/tables.ts";
import {
  buyLines,
  hostsUp,
  key32,
  makeCustomer,
  makeNetwork,
  type Person,
  stockCatalogue,
} from "../../testing/world.ts";
import { closeConnection } from "./close.ts";
import { openConnection } from "./open.ts";

const LINES = 200;
const PORTS = 50;

async function outcome(opening: ReturnType<typeof openConnection>): Promise<string> {
  try {
    return String((await opening).port);
  } catch (error) {
    if (isAppError(error)) return error.code;
    throw error;
  }
}

function open(h: Harness, who: Person, lineId: Id<"lin">) {
  return openConnection(who.ctx, { lineId, clientPublicKey: key32(h) }, 0);
}

async function activeOf(h: Harness, lineId: Id<"lin">) {
  return h.ports.db.read
    .select()
    .from(t.connections)
    .where(and(eq(t.connections.lineId, lineId), eq(t.connections.state, "active")));
}

async function crowd(h: Harness, lines: number, ports: number, forwards = 1) {
  await stockCatalogue(h);
  const network = await makeNetwork(h, { exits: lines, ports, forwards });
  const customer = await makeCustomer(h, "crowd");
  const lineIds: Id<"lin">[] = [];
  while (lineIds.length < lines) lineIds.push(...(await buyLines(h, customer, Math.min(50, lines - lineIds.length))));
  await hostsUp(h);
  return { customer, lineIds, network };
}

test("200 concurrent opens over one forward host with 50 ports: 50 distinct ports, lines_busy for the rest, no retries", async () => {
  const h = await makeHarness();
  const { customer, lineIds } = await crowd(h, LINES, PORTS);
  const writesBefore = h.writes;
  const outcomes = await Promise.all(lineIds.map((lineId) => outcome(open(h, customer, lineId))));
  const writes = h.writes - writesBefore;

  const opened = outcomes.filter((o) => /^\d+$/.test(o)).map(Number);
  expect(new Set(opened).size).toBe(PORTS);
  expect(opened).toHaveLength(PORTS);
  expect(outcomes.filter((o) => o === "lines_busy")).toHaveLength(LINES - PORTS);
  // One to count the open at the door and one to make it, each exactly once: nobody tries again.
  expect(writes).toBe(2 * LINES);

  const active = await h.ports.db.read.select().from(t.connections).where(eq(t.connections.state, "active"));
  expect(new Set(active.map((c) => `${c.forwardHostId}:${c.port}`)).size).toBe(PORTS);
  expect(new Set(active.map((c) => c.lineId)).size).toBe(PORTS);
  note(`opens: ${opened.length} opened, ${LINES - opened.length} busy, ${writes} write transactions`);
});

test("a closed port rests: it is not handed out again before its quarantine ends, and is afterwards", async () => {
  const h = await makeHarness({ settings: { portQuarantineMs: 60_000 } });
  const { customer, lineIds } = await crowd(h, 6, 3);
  const first = await Promise.all(lineIds.slice(0, 3).map((lineId) => open(h, customer, lineId)));
  const closedAt = h.clock.now();
  await Promise.all(first.map((connection) => closeConnection(customer.ctx, connection.id, 0)));

  for (const after of [0, 30_000, 59_999]) {
    h.clock.advance(closedAt + after - h.clock.now());
    await hostsUp(h);
    expect(await Promise.all(lineIds.slice(3).map((lineId) => outcome(open(h, customer, lineId))))).toEqual(
      Array(3).fill("lines_busy"),
    );
  }
  h.clock.advance(closedAt + 60_000 - h.clock.now());
  await hostsUp(h);
  const again = await Promise.all(lineIds.slice(3).map((lineId) => outcome(open(h, customer, lineId))));
  expect(again.map(Number).sort()).toEqual(first.map((connection) => connection.port).sort());
});

test("ports in quarantine stay free of the concurrent opens that race for the rest", async () => {
  const h = await makeHarness({ settings: { portQuarantineMs: 60_000 } });
  const { customer, lineIds } = await crowd(h, 24, 10);
  const early = await Promise.all(lineIds.slice(0, 4).map((lineId) => open(h, customer, lineId)));
  await Promise.all(early.map((connection) => closeConnection(customer.ctx, connection.id, 0)));
  const resting = new Set(early.map((connection) => String(connection.port)));
  const outcomes = await Promise.all(lineIds.slice(4).map((lineId) => outcome(open(h, customer, lineId))));
  expect(outcomes.filter((o) => resting.has(o))).toEqual([]);
  expect(outcomes.filter((o) => o === "lines_busy")).toHaveLength(14);
});

test("the next port is the one after the last, so that a port rests longest", async () => {
  const h = await makeHarness();
  const { customer, lineIds } = await crowd(h, 1, 4);
  const [lineId] = lineIds as [Id<"lin">];
  const ports: number[] = [];
  for (let i = 0; i < 6; i++) ports.push((await open(h, customer, lineId)).port);
  expect(ports).toEqual([30_000, 30_001, 30_002, 30_003, 30_000, 30_001]);
});

test("the database itself refuses two active connections on one port, and two on one line", async () => {
  const h = await makeHarness();
  const { customer, lineIds } = await crowd(h, 2, 4);
  const [a, b] = lineIds as [Id<"lin">, Id<"lin">];
  const first = await open(h, customer, a);
  const second = await open(h, customer, b);
  await expect(
    execute(h.ports, sql`UPDATE connections SET port = ${first.port} WHERE id = ${second.id}`),
  ).rejects.toThrow();
  await expect(execute(h.ports, sql`UPDATE connections SET line_id = ${a} WHERE id = ${second.id}`)).rejects.toThrow();
});

test("concurrent opens of one line leave one active connection, the newest, and the others replaced", async () => {
  const h = await makeHarness();
  const { customer, lineIds } = await crowd(h, 1, 50);
  const [lineId] = lineIds as [Id<"lin">];
  await Promise.allSettled(Array.from({ length: 30 }, () => open(h, customer, lineId)));
  const all = await h.ports.db.read.select().from(t.connections).where(eq(t.connections.lineId, lineId));
  expect(all).toHaveLength(30);
  expect(all.filter((c) => c.state === "active")).toHaveLength(1);
  expect(all.filter((c) => c.closeReason === "replaced")).toHaveLength(29);
  const [active] = all.filter((c) => c.state === "active");
  expect(active?.exitRev).toBe(Math.max(...all.map((c) => c.exitRev)));
});

test("an open that finds no port leaves the line's older connection as it was", async () => {
  const h = await makeHarness({ settings: { portQuarantineMs: 60_000 } });
  const { customer, lineIds } = await crowd(h, 2, 1, 2);
  const [lineId, other] = lineIds as [Id<"lin">, Id<"lin">];
  const first = await open(h, customer, lineId);
  await open(h, customer, other);
  const [row] = await activeOf(h, lineId);
  // Its own forward host takes nothing new, and the other's only port is somebody else's.
  await execute(h.ports, sql`UPDATE hosts SET state = 'draining' WHERE id = ${row?.forwardHostId}`);
  expect(await outcome(open(h, customer, lineId))).toBe("lines_busy");
  expect((await activeOf(h, lineId)).map((c) => c.id)).toEqual([first.id]);
});

test("a line may have its own port again at once, while it still rests from everyone else", async () => {
  const h = await makeHarness({ settings: { portQuarantineMs: 60_000 } });
  const { customer, lineIds } = await crowd(h, 2, 1);
  const [lineId, other] = lineIds as [Id<"lin">, Id<"lin">];
  const first = await open(h, customer, lineId);
  const second = await open(h, customer, lineId);
  expect(second.port).toBe(first.port);
  await closeConnection(customer.ctx, second.id, 0);
  expect(await outcome(open(h, customer, other))).toBe("lines_busy");
});

test("the least loaded forward host is taken, and none that is silent, draining or not approved", async () => {
  const h = await makeHarness();
  const { customer, lineIds, network } = await crowd(h, 6, 10, 3);
  const [a, b, c] = network.forwards as [Id<"hst">, Id<"hst">, Id<"hst">];
  await execute(h.ports, sql`UPDATE hosts SET state = 'draining' WHERE id = ${c}`);
  const opened = await Promise.all(lineIds.slice(0, 4).map((lineId) => open(h, customer, lineId)));
  const rows = await h.ports.db.read.select().from(t.connections).where(eq(t.connections.state, "active"));
  expect(opened).toHaveLength(4);
  expect(rows.filter((row) => row.forwardHostId === a)).toHaveLength(2);
  expect(rows.filter((row) => row.forwardHostId === b)).toHaveLength(2);
  // Its control plane died and left "online" behind: only the time tells.
  await execute(h.ports, sql`UPDATE hosts SET last_seen_at = ${h.clock.now() - 61_000} WHERE role = 'forward'`);
  expect(await outcome(open(h, customer, lineIds[4] as Id<"lin">))).toBe("no_forward_host");
});

test("a connection that gives up on a silent forward host does not end one that was opened since", async () => {
  const fleet = new SilentFleet();
  const h = await makeHarness({ fleet });
  const { customer, lineIds } = await crowd(h, 1, 10, 2);
  const [lineId] = lineIds as [Id<"lin">];
  let newest: { id: string } | undefined;
  let waited = false;
  fleet.waitApplied = async (targets) => {
    const { db } = h.ports;
    const { write } = db;
    // The first open has waited in vain and is about to move; another device of the customer is faster.
    if (!waited)
      db.write = async (fn) => {
        db.write = write;
        newest = await open(h, customer, lineId);
        return write(fn);
      };
    waited = true;
    return targets.map(() => false);
  };
  const first = openConnection(customer.ctx, { lineId, clientPublicKey: key32(h) }, 1000);
  expect(await outcome(first)).toBe("conflict");
  expect((await activeOf(h, lineId)).map((c) => c.id)).toEqual([newest?.id]);
});

test("a silent forward host's connection moves to another, keeping the client's key", async () => {
  const fleet = new SilentFleet();
  const h = await makeHarness({ fleet });
  const { customer, lineIds } = await crowd(h, 1, 10, 2);
  const [lineId] = lineIds as [Id<"lin">];
  const tried: string[] = [];
  fleet.waitApplied = async (targets) => {
    tried.push(targets[0]?.hostId ?? "");
    return targets.map(() => tried.length > 1);
  };
  const key = key32(h);
  const opened = await openConnection(customer.ctx, { lineId, clientPublicKey: key }, 1000);
  expect(opened.ready).toEqual({ forward: true, exit: true });
  expect(opened.clientPublicKey).toBe(key);
  expect(new Set(tried).size).toBe(2);
  const [active] = await activeOf(h, lineId);
  expect(active).toMatchObject({ id: opened.id, forwardHostId: tried.at(-1) });
  const rows = await h.ports.db.read.select().from(t.connections).where(eq(t.connections.state, "closed"));
  expect(rows.map((row) => row.closeReason)).toEqual(["forward_silent"]);
});

test("a line that is off, or past its end, opens nothing", async () => {
  const h = await makeHarness();
  const { customer, lineIds } = await crowd(h, 1, 4);
  const [lineId] = lineIds as [Id<"lin">];
  h.clock.advance(32 * 86_400_000);
  await hostsUp(h);
  expect(await outcome(open(h, customer, lineId))).toBe("line_not_active");
  await h.runJobs();
  expect(await outcome(open(h, customer, lineId))).toBe("line_not_active");
});
