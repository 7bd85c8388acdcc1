import { afterAll, beforeAll, expect, test } from "vitest";
import { poll } from "../../scripts/lab/poll.ts";
import { startRedis } from "../../scripts/redis.ts";
import { note } from "../testing/note.ts";
import { startProcess } from "../testing/processes.ts";
import { ok, type ScaledWorld, startScaledWorld } from "../testing/scaled-world.ts";

/** Two control-plane processes on one libSQL server: customers talk to A, the hosts are linked to B. */

let world: ScaledWorld;

type Opened = { id: string; ready: { forward: boolean; exit: boolean } };

/** Opens on A; answers what came of it and how long it took. */
async function open(waitMs = 20_000): Promise<Opened & { ms: number }> {
  const from = performance.now();
  const body = { lineId: world.lineId, generate: true };
  const opened = await ok(world.customer<Opened>("POST", `/connections?waitMs=${waitMs}`, body));
  return { ...opened, ms: Math.round(performance.now() - from) };
}

beforeAll(async () => {
  world = await startScaledWorld();
}, 120_000);

afterAll(() => world?.stop());

test("a connection opened on process A reaches hosts linked to process B, woken by Redis", async () => {
  const { ready, ms } = await open();
  note(`opened on A, applied on B's hosts after ${ms} ms, with Redis`);
  expect(ready).toEqual({ forward: true, exit: true });
});

test("Redis emptied or gone costs seconds, never state: B finds the change by itself", async () => {
  const { port } = world.redis;
  await world.redis.stop();
  const { ready, ms } = await open();
  note(`opened on A, applied on B's hosts after ${ms} ms, without Redis`);
  expect(ready).toEqual({ forward: true, exit: true });
  // Back at the same place and empty: both processes find it again by themselves.
  world.redis = await startRedis(port);
  await poll(async () => (await open()).ms < 2000, { what: "wake-ups to go by Redis again", timeoutMs: 30_000 });
});

test("a host that joins A is B's no longer: its older session is closed, and acks there count for nothing", async () => {
  const old = world.agents.exit.link;
  await world.agents.exit.join(world.a.url);
  const { reason } = await old.gone();
  expect(reason).toBe("superseded");
  expect((await open()).ready).toEqual({ forward: true, exit: true });
});

test("a process that is killed takes no state with it: its hosts join the other one and go on", async () => {
  await world.b.kill9();
  for (const agent of Object.values(world.agents)) await agent.join(world.a.url);
  expect((await open()).ready).toEqual({ forward: true, exit: true });
  world.b = await startProcess(world.environment);
});
