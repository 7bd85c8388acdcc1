import { expect, test } from "vitest";
import { newId } from "../../shared/ids.ts";
import type { AgentFrame, TaskFrame } from "../../shared/protocol/frames.ts";
import { TaskDispatcher } from "./dispatch.ts";
import { type TaskContext, TaskError, type TaskRunner } from "./types.ts";

let made = 0;
function task(kind = "ping", more: Partial<TaskFrame> = {}): TaskFrame {
  made += 1;
  const id = newId("tsk", made, new Uint8Array(10));
  const params = { target: "10.13.13.2", interface: null, count: 1, intervalMs: 1000 };
  return {
    t: "task",
    id,
    kind,
    params,
    deadlineAt: Date.now() + 60_000,
    signature: { keyId: "k", value: "" },
    ...more,
  };
}

/** A dispatcher whose pings are run by this function. */
function bench(run: TaskRunner<unknown>) {
  const frames: AgentFrame[] = [];
  const link = { up: true };
  const loaded: string[] = [];
  const loader = (name: string) => async () => {
    loaded.push(name);
    return run as TaskRunner<never>;
  };
  const dispatcher = new TaskDispatcher({
    loaders: { ping: loader("ping"), capture: loader("capture"), uplink: loader("uplink"), upgrade: loader("upgrade") },
    log: { info() {}, warn() {}, error() {} },
    send: (frame) => link.up && frames.push(frame) > 0,
    context: {
      hostInfo: { tunnelInterface: () => "tl0", outsideInterface: async () => "eth0" },
      openSealed: () => new Uint8Array(),
      way: () => ({ url: "http://cp" }),
      now: Date.now,
    },
  });
  const ends = () => frames.flatMap((f) => (f.t === "task.end" ? [f.outcome] : []));
  return { dispatcher, frames, ends, link, loaded };
}
const untilAborted: TaskRunner<unknown> = (_params, { signal }: TaskContext) =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

test("events go out numbered in their order, then one end with the result", async () => {
  const { dispatcher, frames, ends } = bench(async (_params, { emit }) => {
    emit("a");
    emit("b");
    return { sent: 1 };
  });
  const one = task();
  dispatcher.start(one);
  await expect.poll(() => ends()).toEqual([{ ok: true, result: { sent: 1 } }]);
  expect(frames.slice(0, 2)).toEqual(["a", "b"].map((data, seq) => ({ t: "task.event", id: one.id, seq, data })));
});

test.each([
  ["a kind there is not", task("shell"), "unknown_kind"],
  ["a kind of the object's own", task("constructor"), "unknown_kind"],
  ["parameters that don't fit", task("ping", { params: { target: "-f 10.0.0.1" } }), "bad_params"],
])("%s never reaches a runner", async (_name, frame, code) => {
  const { dispatcher, ends, loaded } = bench(async () => "ran");
  dispatcher.start(frame);
  await expect.poll(() => ends()).toMatchObject([{ ok: false, error: { code } }]);
  expect(loaded).toEqual([]);
});

test("a task's own error keeps its code; any other is task_failed", async () => {
  for (const [error, code] of [
    [new TaskError("no_uplink", "x"), "no_uplink"],
    [new Error("x"), "task_failed"],
  ] as const) {
    const { dispatcher, ends } = bench(async () => Promise.reject(error));
    dispatcher.start(task());
    await expect.poll(() => ends()).toMatchObject([{ ok: false, error: { code } }]);
  }
});

test("cancelling and the deadline end a task", async () => {
  const { dispatcher, ends } = bench(untilAborted);
  const one = task();
  dispatcher.start(one);
  dispatcher.start(task("ping", { deadlineAt: Date.now() + 50 }));
  await expect.poll(() => ends()).toMatchObject([{ ok: false, error: { code: "deadline" } }]);
  dispatcher.cancel(one.id);
  await expect.poll(() => ends()[1]).toMatchObject({ ok: false, error: { code: "cancelled" } });
  expect(dispatcher.running).toBe(0);
});

test("the number at once is bounded, and what is too much is answered", async () => {
  const { dispatcher, ends } = bench(untilAborted);
  for (let i = 0; i < 20; i++) dispatcher.start(task());
  expect(dispatcher.running).toBe(16);
  expect(ends()).toHaveLength(4);
  expect(ends()[0]).toMatchObject({ ok: false, error: { code: "too_many_tasks" } });
  dispatcher.stop();
  await expect.poll(() => dispatcher.running).toBe(0);
});

test("an end that came without a link is told with the next one", async () => {
  const { dispatcher, ends, link } = bench(async () => "done");
  link.up = false;
  dispatcher.start(task());
  await expect.poll(() => dispatcher.running).toBe(0);
  link.up = true;
  dispatcher.linked();
  expect(ends()).toEqual([{ ok: true, result: "done" }]);
});

test("what a runner left under way is told of the task's end", async () => {
  let told: AbortSignal | undefined;
  const { dispatcher, ends } = bench(async (_params, { signal }) => {
    told = signal;
    return "done";
  });
  dispatcher.start(task());
  await expect.poll(() => ends()).toEqual([{ ok: true, result: "done" }]);
  expect(told?.aborted).toBe(true);
});
