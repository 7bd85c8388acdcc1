import { eq, sql } from "drizzle-orm";
import { expect, test, vi } from "vitest";
import type { Id } from "../../shared/ids.ts";
import * as t from "../db/schema/index.ts";
import { transaction } from "../db/transaction.ts";
import { openConnection } from "../services/connections/open.ts";
import { retryJob } from "../services/jobs/jobs.ts";
import { expireResource } from "../services/resources/expire.ts";
import { armSweep } from "../services/retention/sweep.ts";
import { type Harness, makeHarness } from "../testing/harness.ts";
import { execute } from "../testing/tables.ts";
import {
  buyLines,
  hostsUp,
  key32,
  makeCustomer,
  makeNetwork,
  makePerson,
  stockCatalogue,
  systemOf,
} from "../testing/world.ts";
import { HANDLERS } from "./handlers.ts";
import { nextDueAt, runDueJobs } from "./run-due.ts";

const LEASE_MS = 60_000;
const ORDER = "ord_00000000000000000000000000" as const;

/** Puts a job into the outbox whose handler is the test's. */
async function addJob(h: Harness, key = "test/1", runAt = h.clock.now()): Promise<void> {
  await transaction(systemOf(h), (tx) => tx.job("order.timeout", { orderId: ORDER }, runAt, key));
}

function handle(run: () => Promise<"done" | { againInMs: number }>, maxAttempts = 3) {
  const handler = HANDLERS["order.timeout"];
  const spy = vi.spyOn(handler, "run").mockImplementation(run);
  const before = handler.maxAttempts;
  handler.maxAttempts = maxAttempts;
  return {
    spy,
    [Symbol.dispose]() {
      spy.mockRestore();
      handler.maxAttempts = before;
    },
  };
}

async function theJob(h: Harness) {
  const [job] = await h.ports.db.read.select().from(t.jobs);
  if (job === undefined) throw new Error("no job");
  return job;
}

test("a due job runs once and is done; one that is not due waits", async () => {
  const h = await makeHarness();
  using handled = handle(async () => "done");
  await addJob(h, "test/later", h.clock.now() + 1000);
  expect(await runDueJobs(h.ports, 8)).toBe(0);
  expect(await nextDueAt(h.ports)).toBe(h.clock.now() + 1000);
  h.clock.advance(1000);
  expect(await h.runJobs()).toBe(1);
  h.clock.advance(86_400_000);
  expect(await h.runJobs()).toBe(0);
  expect(handled.spy).toHaveBeenCalledTimes(1);
  expect(await theJob(h)).toMatchObject({ state: "done", finishedAt: expect.any(Number) });
});

test("one cause makes one job, however often it is asked for", async () => {
  const h = await makeHarness();
  using handled = handle(async () => "done");
  await Promise.all(Array.from({ length: 10 }, () => addJob(h)));
  await h.runJobs();
  await addJob(h);
  await h.runJobs();
  expect(handled.spy).toHaveBeenCalledTimes(1);
});

test("a job goes with its transaction: rolled back, there is none", async () => {
  const h = await makeHarness();
  await transaction(systemOf(h), async (tx) => {
    await tx.job("order.timeout", { orderId: ORDER }, 0, "test/1");
    throw new Error("crash");
  }).catch(() => undefined);
  expect(await h.ports.db.read.select().from(t.jobs)).toEqual([]);
});

test("two runners that look at once do not both take a job", async () => {
  const h = await makeHarness();
  using handled = handle(async () => "done");
  for (let i = 0; i < 20; i++) await addJob(h, `test/${i}`);
  const taken = await Promise.all(Array.from({ length: 5 }, () => runDueJobs(h.ports, 8)));
  expect(taken.reduce((a, b) => a + b)).toBe(20);
  expect(handled.spy).toHaveBeenCalledTimes(20);
});

test("a job whose worker died is taken by another when its lease ends, not before, and the dead one's outcome is void", async () => {
  const h = await makeHarness();
  const dead = Promise.withResolvers<"done">();
  let calls = 0;
  using handled = handle(() => (++calls === 1 ? dead.promise : Promise.reject(new Error("second worker"))));
  await addJob(h);
  const first = runDueJobs(h.ports, 8);
  await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(1));
  h.clock.advance(LEASE_MS - 1);
  expect(await runDueJobs(h.ports, 8)).toBe(0);
  h.clock.advance(1);
  expect(await runDueJobs(h.ports, 8)).toBe(1);
  expect(handled.spy).toHaveBeenCalledTimes(2);
  expect(await theJob(h)).toMatchObject({ state: "waiting", attempts: 2, lastError: "second worker" });
  // It was only slow: what it says now no longer counts.
  dead.resolve("done");
  await first;
  expect(await theJob(h)).toMatchObject({ state: "waiting", attempts: 2 });
});

test("a job that takes its process with it each time is a dead letter after five lost workers; one that only lost some lives on", async () => {
  const h = await makeHarness();
  const never = new Promise<"done">(() => undefined);
  let lost = 0;
  using handled = handle(() => (lost-- > 0 ? never : Promise.resolve("done" as const)), 100);
  const runs = async () => {
    const before = handled.spy.mock.calls.length;
    void runDueJobs(h.ports, 8);
    await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(before + 1));
    h.clock.advance(LEASE_MS);
  };
  await addJob(h);
  lost = 4;
  for (let i = 0; i < 4; i++) await runs();
  await h.runJobs();
  expect(await theJob(h)).toMatchObject({ state: "done" });
  expect(handled.spy).toHaveBeenCalledTimes(5);

  await execute(h.ports, sql`DELETE FROM jobs`);
  lost = 1000;
  await addJob(h);
  for (let i = 0; i < 5; i++) await runs();
  expect(handled.spy).toHaveBeenCalledTimes(10);
  await h.runJobs();
  expect(handled.spy).toHaveBeenCalledTimes(10);
  expect(await theJob(h)).toMatchObject({ state: "dead", lastError: expect.stringContaining("5 times") });
  // An operator who has mended it runs it again.
  lost = 0;
  await retryJob((await makePerson(h, "admin", "boss")).ctx, (await theJob(h)).id);
  await h.runJobs();
  expect((await theJob(h)).state).toBe("done");
});

test("a job that ends its process takes its batch along twice: then each runs alone, and the others are done", async () => {
  const h = await makeHarness();
  const never = new Promise<"done">(() => undefined);
  const killer = "ord_7zzzzzzzzzzzzzzzzzzzzzzzzz" as const;
  const handler = HANDLERS["order.timeout"];
  // A process, until it dies; what runs in it by then is gone with it.
  let alive = Promise.withResolvers<void>();
  const dead = new Set<unknown>();
  const spy = vi.spyOn(handler, "run").mockImplementation(async (_, { orderId }) => {
    const mine = alive;
    if (orderId === killer) {
      dead.add(mine);
      mine.resolve();
    }
    await new Promise((resolve) => setImmediate(resolve));
    return dead.has(mine) ? never : "done";
  });
  try {
    for (let i = 0; i < 7; i++) await addJob(h, `test/${i}`);
    await transaction(systemOf(h), (tx) => tx.job("order.timeout", { orderId: killer }, h.clock.now(), "test/killer"));
    for (let life = 0; life < 6; life++) {
      alive = Promise.withResolvers<void>();
      // As the runner does, until nothing is due or the process is gone.
      const idle = (async () => {
        while ((await runDueJobs(h.ports, 8)) > 0);
      })();
      await Promise.race([idle, alive.promise]);
      h.clock.advance(LEASE_MS);
    }
    const rows = await h.ports.db.read.select().from(t.jobs);
    expect(rows.map((row) => [row.dedupeKey, row.state]).sort()).toEqual([
      ...Array.from({ length: 7 }, (_, i) => [`test/${i}`, "done"]),
      ["test/killer", "dead"],
    ]);
    expect(spy.mock.calls.filter(([, { orderId }]) => orderId === killer)).toHaveLength(5);
  } finally {
    spy.mockRestore();
  }
});

test("jobs whose worker was ended come back side by side, and alone only when that happens a second time", async () => {
  const h = await makeHarness();
  const never = new Promise<"done">(() => undefined);
  let running = 0;
  let most = 0;
  let lost = true;
  using handled = handle(async () => {
    most = Math.max(most, ++running);
    await (lost ? never : new Promise((resolve) => setImmediate(resolve)));
    running--;
    return "done";
  });
  for (let i = 0; i < 8; i++) await addJob(h, `test/${i}`);
  for (let life = 1; life <= 2; life++) {
    running = most = 0;
    void runDueJobs(h.ports, 8);
    await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(8 * life));
    h.clock.advance(LEASE_MS);
    expect(most).toBe(8);
  }
  running = most = 0;
  lost = false;
  expect(await h.runJobs()).toBe(8);
  expect(most).toBe(1);
  expect((await h.ports.db.read.select().from(t.jobs)).map((job) => job.state)).toEqual(Array(8).fill("done"));
});

/** Timers that a test turns with the harness's clock. */
function turnTimers(h: Harness) {
  const timers = new Map<() => void, number>();
  h.ports.delay = (ms, fn) => {
    const fire = () => fn();
    timers.set(fire, h.clock.now() + ms);
    return () => timers.delete(fire);
  };
  return {
    timers,
    async turn(ms: number) {
      for (const end = h.clock.now() + ms; h.clock.now() < end; ) {
        h.clock.advance(Math.min(5000, end - h.clock.now()));
        for (const [fire, at] of timers) {
          if (at > h.clock.now()) continue;
          timers.delete(fire);
          fire();
        }
        // What was begun is written before the clock goes on.
        for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
        await h.ports.db.write(async () => {});
      }
    },
  };
}

test("a job that runs for minutes stays with its worker, whose lease goes on; ended, it leaves no timer behind", async () => {
  const h = await makeHarness();
  const { timers, turn } = turnTimers(h);
  const slow = Promise.withResolvers<"done">();
  using handled = handle(() => slow.promise);
  await addJob(h);
  const first = runDueJobs(h.ports, 8);
  await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(1));
  for (let i = 0; i < 5; i++) {
    await turn(LEASE_MS);
    expect(await runDueJobs(h.ports, 8)).toBe(0);
  }
  expect(await theJob(h)).toMatchObject({ state: "running", losses: 0 });
  slow.resolve("done");
  await first;
  expect(await theJob(h)).toMatchObject({ state: "done", losses: 0 });
  expect(handled.spy).toHaveBeenCalledTimes(1);
  expect(timers.size).toBe(0);
});

test("a worker does not renew a lease that another has taken, nor one of a job that hangs for an hour", async () => {
  const h = await makeHarness();
  const { timers, turn } = turnTimers(h);
  using handled = handle(() => new Promise(() => undefined));
  await addJob(h);
  void runDueJobs(h.ports, 8);
  await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(1));
  const taken = h.clock.now() + 1_000_000;
  await execute(h.ports, sql`UPDATE jobs SET lease_token = 'another', lease_until = ${taken}`);
  await turn(LEASE_MS);
  expect((await theJob(h)).leaseUntil).toBe(taken);
  expect(timers.size).toBe(0);

  h.clock.advance(1_000_000);
  void runDueJobs(h.ports, 8);
  await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(2));
  await turn(3_500_000);
  expect(await runDueJobs(h.ports, 8)).toBe(0);
  await turn(200_000);
  expect(timers.size).toBe(0);
  void runDueJobs(h.ports, 8);
  await vi.waitFor(() => expect(handled.spy).toHaveBeenCalledTimes(3));
});

test("the sweep is never given up: when it has ended five processes it is left alone for an hour, and then runs again", async () => {
  const h = await makeHarness();
  const handler = HANDLERS["retention.sweep"];
  let lost = true;
  const spy = vi
    .spyOn(handler, "run")
    .mockImplementation(() => (lost ? new Promise(() => undefined) : Promise.resolve({ againInMs: 1000 })));
  try {
    await armSweep(h.ports);
    for (let life = 1; life <= 5; life++) {
      void runDueJobs(h.ports, 8);
      await vi.waitFor(() => expect(spy).toHaveBeenCalledTimes(life));
      h.clock.advance(LEASE_MS);
    }
    await h.runJobs();
    expect(spy).toHaveBeenCalledTimes(5);
    expect(await theJob(h)).toMatchObject({ state: "waiting", lastError: expect.stringContaining("5 times") });
    expect((await theJob(h)).runAt).toBeGreaterThanOrEqual(h.clock.now() + 3_600_000);
    lost = false;
    h.clock.advance(3_600_000);
    expect(await runDueJobs(h.ports, 8)).toBe(1);
    expect(await theJob(h)).toMatchObject({ state: "waiting", losses: 0, lastError: null });
  } finally {
    spy.mockRestore();
  }
});

test("a failed job is tried again later and later, then is a dead letter with its error, which an operator can run again", async () => {
  const h = await makeHarness();
  let broken = true;
  using handled = handle(async () => {
    if (broken) throw new Error("no such luck");
    return "done";
  }, 4);
  await addJob(h);
  const waits: number[] = [];
  for (let attempt = 1; attempt <= 4; attempt++) {
    expect(await h.runJobs()).toBe(1);
    const job = await theJob(h);
    if (job.state !== "waiting") break;
    waits.push(job.runAt - h.clock.now());
    h.clock.advance(job.runAt - h.clock.now() - 1);
    expect(await h.runJobs()).toBe(0);
    h.clock.advance(1);
  }
  expect(handled.spy).toHaveBeenCalledTimes(4);
  // Doubling from two seconds, with half to once as much by chance.
  for (const [i, wait] of waits.entries()) {
    expect(wait).toBeGreaterThanOrEqual(500 * 2 ** (i + 1));
    expect(wait).toBeLessThanOrEqual(1000 * 2 ** (i + 1));
  }
  const dead = await theJob(h);
  expect(dead).toMatchObject({ state: "dead", attempts: 4, lastError: "no such luck" });
  h.clock.advance(86_400_000);
  expect(await h.runJobs()).toBe(0);

  broken = false;
  const admin = await makePerson(h, "admin", "boss");
  await retryJob(admin.ctx, dead.id);
  expect(await h.runJobs()).toBe(1);
  expect((await theJob(h)).state).toBe("done");
  await expect(retryJob(admin.ctx, dead.id)).rejects.toThrow(expect.objectContaining({ code: "conflict" }));
});

test("a job that says not yet is asked again without that counting as a failure", async () => {
  const h = await makeHarness();
  let calls = 0;
  using _ = handle(async () => {
    // Twenty times not yet, then one failure: no reason to give it up.
    if (++calls <= 20) return { againInMs: 1000 };
    if (calls === 21) throw new Error("a hiccup");
    return "done";
  }, 3);
  await addJob(h);
  for (let i = 0; i < 60 && (await theJob(h)).state === "waiting"; i++) {
    await h.runJobs();
    h.clock.advance(300_000);
  }
  expect(await theJob(h)).toMatchObject({ state: "done" });
  expect(calls).toBe(22);
});

test("a job of an unknown kind, or with a payload of another form, is a dead letter and stops no other", async () => {
  const h = await makeHarness();
  using handled = handle(async () => "done", 1);
  await addJob(h, "test/odd");
  await execute(h.ports, sql`UPDATE jobs SET kind = 'no.such.kind'`);
  await addJob(h, "test/bad");
  await execute(h.ports, sql`UPDATE jobs SET payload = '{"orderId":"lin_1"}' WHERE dedupe_key = 'test/bad'`);
  await addJob(h, "test/good");
  await h.runJobs();
  const jobs = await h.ports.db.read.select().from(t.jobs);
  expect(Object.fromEntries(jobs.map((job) => [job.dedupeKey, job.state]))).toEqual({
    "test/odd": "dead",
    "test/bad": "dead",
    "test/good": "done",
  });
  expect(handled.spy).toHaveBeenCalledTimes(1);
});

async function runningLine(h: Harness) {
  await stockCatalogue(h);
  await makeNetwork(h, {});
  const customer = await makeCustomer(h, "customer");
  const [lineId] = await buyLines(h, customer);
  if (lineId === undefined) throw new Error("no line");
  const state = async () => {
    const [row] = await h.ports.db.read
      .select({ line: t.lines, resource: t.resources })
      .from(t.lines)
      .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
      .where(eq(t.lines.id, lineId));
    if (row === undefined) throw new Error("no line");
    return row;
  };
  return { customer, lineId, state };
}

async function setEnd(h: Harness, id: Id<"res">, endsAt: number): Promise<void> {
  await h.ports.db.write((tx) => tx.update(t.resources).set({ endsAt }).where(eq(t.resources.id, id)));
}

test("at its end a line is powered off: its connection ends, and its hosts get a new revision", async () => {
  const h = await makeHarness();
  const { customer, lineId, state } = await runningLine(h);
  const { resource, line } = await state();
  h.clock.advance(resource.endsAt - h.clock.now() - 1);
  await hostsUp(h);
  await openConnection(customer.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  await h.runJobs();
  expect(await state()).toMatchObject({ line: { state: "active" }, resource: { state: "running" } });
  const revOf = async () =>
    (
      await h.ports.db.read
        .select()
        .from(t.hosts)
        .where(eq(t.hosts.id, line.exitHostId as Id<"hst">))
    )[0]?.desiredRev ?? 0;
  const before = await revOf();
  h.clock.advance(1);
  await h.runJobs();
  expect(await state()).toMatchObject({ line: { state: "off" }, resource: { state: "expired" } });
  const connections = await h.ports.db.read.select().from(t.connections);
  expect(connections).toMatchObject([{ state: "closed", closeReason: "expired" }]);
  expect(await revOf()).toBeGreaterThan(before);
});

test("an end that has moved is only armed anew, and holds then", async () => {
  const h = await makeHarness();
  const { state } = await runningLine(h);
  const { resource } = await state();
  const later = resource.endsAt + 30 * 86_400_000;
  await setEnd(h, resource.id, later);
  h.clock.advance(resource.endsAt - h.clock.now());
  await h.runJobs();
  expect((await state()).line.state).toBe("active");
  h.clock.advance(later - h.clock.now() - 1);
  await h.runJobs();
  expect((await state()).line.state).toBe("active");
  h.clock.advance(1);
  await h.runJobs();
  expect((await state()).line.state).toBe("off");
});

test("powering off twice changes nothing the second time", async () => {
  const h = await makeHarness();
  const { state } = await runningLine(h);
  const { resource } = await state();
  h.clock.advance(resource.endsAt - h.clock.now());
  expect(await expireResource(systemOf(h), resource.id)).toBe("expired");
  expect(await expireResource(systemOf(h), resource.id)).toBe("ended");
});
