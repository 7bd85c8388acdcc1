import { afterEach, expect, test, vi } from "vitest";
import * as t from "../../db/schema/index.ts";
import { transaction } from "../../db/transaction.ts";
import type { Ports } from "../../ports/index.ts";
import { type Harness, makeHarness } from "../../testing/harness.ts";
import { systemOf } from "../../testing/world.ts";
import { InProcessRunner } from "./in-process.ts";

afterEach(() => {
  vi.useRealTimers();
});

const ORDER = "ord_00000000000000000000000000" as const;

/** A runner on the harness's database, whose timers the test turns. */
async function startRunner(
  change: (ports: Ports) => Ports = (ports) => ports,
): Promise<{ h: Harness; runner: InProcessRunner; ports: Ports }> {
  const h = await makeHarness();
  const runner = new InProcessRunner();
  h.ports.jobBell = runner.bell;
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const ports = change(h.ports);
  return { h, runner, ports };
}

/** Lets what is under way come to rest; only timers are left then. */
async function rest(): Promise<void> {
  for (let i = 0; i < 100; i++) await new Promise((resolve) => setImmediate(resolve));
}

async function turn(h: Harness, ms: number): Promise<void> {
  h.clock.advance(ms);
  vi.advanceTimersByTime(ms);
  await rest();
}

function addJob(h: Harness, key: string, runAt: number) {
  return transaction(systemOf(h), (tx) => tx.job("order.timeout", { orderId: ORDER }, runAt, key));
}

const states = async (h: Harness) => (await h.ports.db.read.select().from(t.jobs)).map((job) => job.state);

test("a job is run when it is committed, or when it is due", async () => {
  const { h, runner, ports } = await startRunner();
  runner.start(ports);
  await turn(h, 0);
  await addJob(h, "now", h.clock.now());
  await addJob(h, "later", h.clock.now() + 2_000);
  await turn(h, 0);
  expect((await states(h)).sort()).toEqual(["done", "waiting"]);
  await turn(h, 1_999);
  expect((await states(h)).sort()).toEqual(["done", "waiting"]);
  await turn(h, 1);
  expect(await states(h)).toEqual(["done", "done"]);
  await runner.stop();
});

test("a bell that rings while the runner looks for its next wake-up is not lost", async () => {
  let h: Harness | undefined;
  let rung = false;
  const started = await startRunner((ports) => {
    const { read } = ports.db;
    // Between the runner's look at the outbox and its going to sleep, a job is committed.
    const select = (...fields: Parameters<typeof read.select>) => {
      const builder = read.select(...fields);
      if (!("at" in (fields[0] ?? {})) || rung) return builder;
      rung = true;
      return {
        from: (table: typeof t.jobs) => ({
          async where(condition: undefined) {
            const rows = await builder.from(table).where(condition);
            if (h !== undefined) await addJob(h, "in between", h.clock.now());
            return rows;
          },
        }),
      };
    };
    const watched = new Proxy(read, {
      get: (target, name) => (name === "select" ? select : Reflect.get(target, name)),
    });
    return { ...ports, db: { ...ports.db, read: watched, write: ports.db.write } };
  });
  h = started.h;
  started.runner.start(started.ports);
  await turn(h, 0);
  await turn(h, 0);
  expect(rung).toBe(true);
  expect(await states(h)).toEqual(["done"]);
  await started.runner.stop();
});

test("it looks again by itself, so that a bell that never rang costs seconds and not the job", async () => {
  const { h, runner, ports } = await startRunner();
  runner.start(ports);
  await turn(h, 0);
  h.ports.jobBell = { ring() {} };
  await addJob(h, "silent", h.clock.now());
  await turn(h, 5_000);
  expect(await states(h)).toEqual(["done"]);
  await runner.stop();
});

test("stopped, it runs nothing more", async () => {
  const { h, runner, ports } = await startRunner();
  runner.start(ports);
  await turn(h, 0);
  await runner.stop();
  await addJob(h, "late", h.clock.now());
  await turn(h, 60_000);
  expect(await states(h)).toEqual(["waiting"]);
});
