import { describe, expect, test } from "vitest";
import { z } from "zod";
import { newId } from "../../shared/ids.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { FIRST_EVENT_KINDS, type HostEvent, helloSignedBytes, hostEventSchema } from "../../shared/protocol/frames.ts";
import { ITEM_VERSIONS, TASK_VERSIONS } from "../../shared/protocol/versions.ts";
import { sha256OfCanonical, verifier } from "../keys.ts";
import { HOST, OTHER_HOST, relayItem, SessionBench, sent, strangerKey, types } from "../testing/session-bench.ts";

describe("joining", () => {
  test("the challenge is answered with a signed hello, whose epoch is durable before it is used", () => {
    const bench = new SessionBench();
    const actions = bench.hello();
    expect(types(actions)).toEqual(["saveEpoch", "send"]);
    const [hello] = sent(actions);
    if (hello?.t !== "hello") throw new Error("no hello");
    expect(actions[0]).toEqual({ type: "saveEpoch", epoch: hello.epoch });
    expect(hello.epoch).toBe(bench.wall);
    const bytes = helloSignedBytes({ nonce: "0123456789abcdef", hostId: HOST, epoch: hello.epoch });
    expect(verifier(bench.agentKeys.identity.publicKey)(bytes, hello.signature)).toBe(true);
  });

  test("the epoch grows even when the clock went back", () => {
    const bench = new SessionBench({ epoch: 1_900_000_000_000 });
    expect(bench.hello()[0]).toEqual({ type: "saveEpoch", epoch: 1_900_000_000_001 });
  });

  test("a stale epoch is jumped past, but not to where no clock will ever be", () => {
    const bench = new SessionBench();
    bench.hello();
    bench.frame({ t: "bye", reconnectAfterMs: 0, reason: "stale_epoch", epoch: 1_900_000_000_000 });
    bench.pass(60_000);
    expect(bench.hello()[0]).toEqual({ type: "saveEpoch", epoch: 1_900_000_000_001 });
    bench.frame({ t: "bye", reconnectAfterMs: 0, reason: "stale_epoch", epoch: Number.MAX_SAFE_INTEGER - 1 });
    bench.pass(60_000);
    expect(bench.hello()[0]).toEqual({ type: "saveEpoch", epoch: 1_900_000_000_002 });
  });

  test("the link stands only with the first state, which is kept and applied", () => {
    const bench = new SessionBench();
    bench.hello();
    expect(bench.welcome()).toEqual([]);
    expect(bench.session.phase).toBe("state");
    const items = [relayItem("r", 40_000)];
    const actions = bench.frame(bench.state(0, items));
    expect(types(actions)).toEqual(["linked", "accept"]);
    expect(bench.session.accepted?.rev).toBe(0);
  });

  test("frames out of turn close the link", () => {
    const early = new SessionBench();
    early.hello();
    expect(types(early.frame(early.state(1, [])))).toContain("close");
    const task = new SessionBench();
    task.hello();
    task.welcome();
    expect(types(task.frame(task.task()))).not.toContain("task");
  });

  test("a server that says nothing is given up", () => {
    const bench = new SessionBench();
    bench.input({ type: "start" });
    bench.input({ type: "opened" });
    expect(types(bench.pass(21_000))).toEqual(["close", "note", "unlinked"]);
  });
});

describe("states", () => {
  const items = [relayItem("r", 40_000)];

  test.each([
    ["for another host", (b: SessionBench) => b.state(2, items, { hostId: OTHER_HOST })],
    ["signed by a stranger", (b: SessionBench) => b.state(2, items, { key: strangerKey })],
    ["of a key that is not pinned", (b: SessionBench) => b.state(2, items, { keyId: "key-2" })],
    ["whose items were changed", (b: SessionBench) => ({ ...b.state(2, items), items: [relayItem("r", 40_001)] })],
    ["whose revision was changed", (b: SessionBench) => ({ ...b.state(2, items), rev: 3 })],
  ])("one %s is refused, told, and the next endpoint tried", (_name, make) => {
    const bench = new SessionBench();
    bench.link(1);
    const actions = bench.frame(make(bench));
    expect(types(actions)).toEqual(["event", "close", "unlinked"]);
    expect(bench.session.accepted?.rev).toBe(1);
    expect(bench.session.endpoint).toBe("https://two.example");
  });

  test("an older one is refused and told, the link stays", () => {
    const bench = new SessionBench({ accepted: { rev: 7, sha256: "0".repeat(64) } });
    bench.link(7);
    expect(types(bench.frame(bench.state(6, items)))).toEqual(["event"]);
    expect(bench.session.phase).toBe("linked");
  });

  test("a recorded state of last week is refused after a restart", () => {
    const bench = new SessionBench({ accepted: { rev: 7, sha256: "0".repeat(64) } });
    bench.hello();
    bench.welcome();
    expect(types(bench.frame(bench.state(6, items)))).toEqual(["event"]);
  });

  test('"unchanged" is taken for exactly what was accepted', () => {
    const bench = new SessionBench();
    const kept = bench.state(3, items);
    const same = new SessionBench({ accepted: { rev: 3, sha256: kept.sha256 } });
    same.hello();
    same.welcome();
    expect(types(same.frame(same.state(3, items, { unchanged: true })))).toEqual(["linked", "recheck"]);
    const other = new SessionBench({ accepted: { rev: 3, sha256: "0".repeat(64) } });
    other.hello();
    other.welcome();
    expect(types(other.frame(other.state(3, items, { unchanged: true })))).toContain("close");
    const none = new SessionBench();
    none.hello();
    none.welcome();
    expect(types(none.frame(none.state(0, [], { unchanged: true })))).toContain("close");
  });

  test("the same state again is no new one: what is being applied goes on, and is reported", () => {
    const bench = new SessionBench();
    bench.link(1, items);
    expect(types(bench.frame(bench.state(1, items)))).toEqual(["recheck"]);
    expect(types(bench.frame(bench.state(1, [relayItem("r", 40_001)])))).toEqual(["accept"]);
  });

  test("the hello says what was taken last beside what was applied last", () => {
    const bench = new SessionBench();
    bench.link(1, items);
    const { sha256 } = bench.state(1, items);
    bench.input({ type: "report", rev: 1, sha256, results: [], allOk: true });
    const later = bench.state(2, [relayItem("r", 40_001)]);
    bench.frame(later);
    bench.input({ type: "closed", why: "gone" });
    bench.pass(60_000);
    expect(sent(bench.hello())).toMatchObject([
      { applied: { rev: 1, sha256 }, accepted: { rev: 2, sha256: later.sha256 } },
    ]);
  });

  test("the ack comes after the report, and only for the newest state", () => {
    const bench = new SessionBench();
    bench.link(1, items);
    const { sha256 } = bench.state(1, items);
    const results = [{ item: "r", ok: true }];
    const report = { type: "report", rev: 1, sha256, results, allOk: true } as const;
    const actions = bench.input(report);
    expect(types(actions)).toEqual(["send", "saveApplied"]);
    expect(sent(actions)).toEqual([{ t: "ack", rev: 1, sha256, results }]);
    bench.frame(bench.state(2, items));
    expect(sent(bench.input(report))).toEqual([]);
    bench.input({ type: "closed", why: "gone" });
    expect(sent(bench.input({ ...report, rev: 2 }))).toEqual([]);
    // The next hello says what was applied meanwhile.
    bench.pass(60_000);
    const [hello] = sent(bench.hello());
    expect(hello).toMatchObject({ applied: { rev: 2, sha256 } });
  });

  test("a state with a failed item is acked and not counted as applied", () => {
    const bench = new SessionBench();
    bench.link(1, items);
    const { sha256 } = bench.state(1, items);
    const results = [{ item: "r", ok: false, error: "no" }];
    expect(types(bench.input({ type: "report", rev: 1, sha256, results, allOk: false }))).toEqual(["send"]);
  });
});

describe("a control plane of another release", () => {
  const later = { type: "teleport", id: "t1", to: { any: ["thing"] } };
  const grown = { ...relayItem("r", 40_000), colour: "red" };

  test("items of a kind not known, and fields not known, are verified with the rest and leave the rest usable", () => {
    const bench = new SessionBench();
    bench.hello();
    bench.welcome();
    const actions = bench.frame(bench.state(1, [later, grown] as never));
    expect(types(actions)).toEqual(["linked", "accept"]);
    expect(actions[1]).toEqual({
      type: "accept",
      state: { rev: 1, sha256: sha256OfCanonical([later, grown]), items: [later, grown] },
      read: { items: [relayItem("r", 40_000)], unknown: [{ id: "t1", type: "teleport" }] },
    });
  });

  test.each([
    ["in an item of a kind not known", [{ ...later, to: { any: ["other"] } }, grown]],
    ["in a field not known", [later, { ...grown, colour: "blue" }]],
    ["by a field more", [later, { ...grown, more: 1 }]],
  ])("a state changed on the way %s is refused", (_, changed) => {
    const bench = new SessionBench();
    bench.hello();
    bench.welcome();
    const frame = bench.state(1, [later, grown] as never);
    expect(types(bench.frame({ ...frame, items: changed }))).toEqual(["event", "close", "unlinked"]);
  });

  test("an item of a known kind that can't be read closes the link with the reason, and the last good state stays", () => {
    const bench = new SessionBench();
    bench.link(1, [relayItem("r", 40_000)]);
    const broken = { ...relayItem("r", 40_000), driver: "ebpf" };
    const actions = bench.frame(bench.state(2, [broken] as never));
    expect(types(actions)).toEqual(["close", "unlinked"]);
    expect(actions[0]).toMatchObject({ code: 4001, reason: expect.stringContaining("item r (relay): driver") });
    expect(bench.session.accepted?.rev).toBe(1);
  });

  test("the hello says which kinds are understood, and a bye with a reason not known is honoured", () => {
    const bench = new SessionBench();
    const [hello] = sent(bench.hello());
    expect(hello).toMatchObject({ understands: { items: ITEM_VERSIONS, tasks: TASK_VERSIONS } });
    expect(types(bench.frame({ t: "bye", reason: "on_holiday", reconnectAfterMs: 30_000 }))).toContain("unlinked");
    expect(bench.pass(29_000)).toEqual([]);
    expect(types(bench.pass(2_000))).toEqual(["connect"]);
  });

  test("a frame nested deeper than the stack is refused like a forged one, and ends nothing", () => {
    const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
    const state = new SessionBench();
    state.link(1);
    const frame = JSON.stringify({ ...state.state(2, []), items: [{ type: "x", id: "x", deep: 0 }] });
    expect(types(state.text(frame.replace('"deep":0', `"deep":${deep}`)))).toEqual(["event", "close", "unlinked"]);
    const task = new SessionBench();
    task.link(1);
    const text = JSON.stringify({ ...task.task(), params: 0 }).replace('"params":0', `"params":${deep}`);
    expect(types(task.text(text))).toEqual(["event", "close", "unlinked"]);
  });
});

describe("tasks", () => {
  test("a signed one runs, once", () => {
    const bench = new SessionBench();
    bench.link();
    const task = bench.task();
    expect(types(bench.frame(task))).toEqual(["task"]);
    expect(types(bench.frame(task))).toEqual(["event"]);
  });

  test("one past its deadline, or with one that never comes, is refused", () => {
    const bench = new SessionBench();
    bench.link();
    expect(types(bench.frame(bench.task({ deadlineAt: bench.wall })))).toEqual(["event"]);
    expect(types(bench.frame(bench.task({ deadlineAt: bench.wall + 90_000_000 })))).toEqual(["event"]);
  });

  test.each([
    ["for another host", { hostId: OTHER_HOST }],
    ["signed by a stranger", { key: strangerKey }],
  ])("one %s is refused and the link closed", (_name, options) => {
    const bench = new SessionBench();
    bench.link();
    expect(types(bench.frame(bench.task(options)))).toEqual(["event", "close", "unlinked"]);
  });

  test("one whose parameters were changed on the way is refused", () => {
    const bench = new SessionBench();
    bench.link();
    const forged = { ...bench.task(), params: { target: "192.0.2.1" } };
    expect(types(bench.frame(forged))).toContain("close");
  });
});

describe("liveness", () => {
  test("pings at the server's rhythm, answers pings, and 40 s of silence end the link", () => {
    const bench = new SessionBench();
    bench.link();
    expect(bench.pass(14_999)).toEqual([]);
    expect(sent(bench.pass(1))).toEqual([{ t: "ping", id: 1, at: bench.wall }]);
    expect(sent(bench.frame({ t: "ping", id: 9, at: 0 }))).toEqual([{ t: "pong", id: 9, at: bench.wall }]);
    expect(types(bench.pass(39_999))).toEqual(["send"]);
    expect(types(bench.pass(1))).toEqual(["close", "unlinked"]);
  });

  test("a welcome can't make a dead link look alive for ever", () => {
    const bench = new SessionBench();
    bench.hello();
    const session = newId("lnk", 1, new Uint8Array(10));
    bench.frame({ t: "welcome", session, heartbeatMs: 2 ** 40, silenceMs: 2 ** 50 });
    bench.frame(bench.state(1, []));
    bench.pass(299_999);
    expect(types(bench.pass(1))).toEqual(["close", "unlinked"]);
  });

  test("a jump of the wall clock ends nothing", () => {
    const bench = new SessionBench();
    bench.link();
    bench.wall += 86_400_000;
    expect(bench.input({ type: "tick" })).toEqual([]);
  });
});

describe("coming back", () => {
  const delayAfter = (bench: SessionBench) => (bench.session.nextWake() ?? 0) - bench.mono;

  test("waits grow to a minute, with full jitter, and shrink again only after a state", () => {
    const bench = new SessionBench();
    bench.random = 0.999_999;
    bench.input({ type: "start" });
    const waits: number[] = [];
    for (let i = 0; i < 10; i++) {
      bench.input({ type: "closed", why: "refused" });
      waits.push(Math.round(delayAfter(bench)));
      bench.pass(delayAfter(bench));
    }
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    // A server that welcomes and then drops us must not be hammered.
    bench.hello();
    bench.welcome();
    bench.input({ type: "closed", why: "dropped" });
    expect(delayAfter(bench)).toBeGreaterThan(59_000);
    bench.pass(60_000);
    bench.link();
    bench.input({ type: "closed", why: "dropped" });
    expect(delayAfter(bench)).toBeLessThan(501);
  });

  test("endpoints take turns", () => {
    const bench = new SessionBench();
    const tried = [bench.input({ type: "start" })];
    for (let i = 0; i < 2; i++) {
      bench.input({ type: "closed", why: "refused" });
      tried.push(bench.pass(60_000));
    }
    expect(tried.flat()).toEqual(
      ["one", "two", "one"].map((n) => ({ type: "connect", endpoint: `https://${n}.example` })),
    );
  });

  test("Retry-After and bye are honoured, up to a bound", () => {
    const bench = new SessionBench();
    bench.input({ type: "start" });
    bench.input({ type: "closed", why: "503", retryAfterMs: 30_000 });
    expect(delayAfter(bench)).toBeGreaterThanOrEqual(30_000);
    bench.pass(31_000);
    bench.link();
    bench.frame({ t: "bye", reconnectAfterMs: 20_000, reason: "draining" });
    expect(delayAfter(bench)).toBeGreaterThanOrEqual(20_000);
    bench.pass(21_000);
    bench.hello();
    bench.frame({ t: "bye", reconnectAfterMs: 1e12, reason: "removed" });
    expect(delayAfter(bench)).toBeLessThan(601_000);
  });
});

describe("ways through other hosts", () => {
  const way = (n: number) => ({ hostId: OTHER_HOST, address: `10.0.0.${n}`, port: 51_822 });
  const ways = (...via: ReturnType<typeof way>[]): StateItem => ({ type: "linkWays", id: "link-ways", via });
  const direct = { type: "connect", endpoint: "https://one.example" };
  const through = (n: number) => ({ ...direct, via: way(n) });
  const bench = (more = {}) => new SessionBench({ endpoints: ["https://one.example"], ...more });
  /** How the next attempt goes, once the link was lost like that. */
  const next = (b: SessionBench) => b.pass(60_000);

  test("a host that can't reach the control plane directly tries the ways it knows from its disk, in turn", () => {
    const b = bench({ ways: [way(1), way(2)] });
    const tried = [b.input({ type: "start" })];
    for (let i = 0; i < 3; i++) {
      b.input({ type: "closed", why: "refused" });
      tried.push(next(b));
    }
    expect(tried).toEqual([[direct], [through(1)], [through(2)], [direct]]);
  });

  test("a silent link is followed by the next way, one that was ended by the direct one", () => {
    const silent = bench();
    silent.link(1, [ways(way(1))]);
    silent.pass(39_999);
    expect(types(silent.pass(1))).toEqual(["close", "unlinked"]);
    expect(next(silent)).toEqual([through(1)]);
    const ended = bench();
    ended.link(1, [ways(way(1))]);
    ended.input({ type: "closed", why: "reset" });
    expect(next(ended)).toEqual([direct]);
  });

  test("the hello says through whom, and only then", () => {
    const b = bench({ ways: [way(1)] });
    expect(sent(b.hello())[0]).not.toHaveProperty("via");
    b.input({ type: "closed", why: "refused" });
    next(b);
    expect(sent(b.hello())[0]).toMatchObject({ via: OTHER_HOST });
  });

  test("linked through another host the direct way is tried every ten minutes, and taken when it answers", () => {
    const b = bench({ ways: [way(1)] });
    b.input({ type: "start" });
    b.input({ type: "closed", why: "refused" });
    next(b);
    b.link(1, [ways(way(1))]);
    const alive = (ms: number) => {
      const actions = [];
      for (let left = ms; left > 0; left -= 10_000) {
        actions.push(...b.pass(10_000));
        b.frame({ t: "ping", id: 1, at: 1 });
      }
      return actions.filter((action) => action.type !== "send");
    };
    expect(alive(590_000)).toEqual([]);
    expect(alive(10_000)).toEqual([{ type: "probe", endpoint: "https://one.example" }]);
    expect(b.input({ type: "probed", ok: false })).toEqual([]);
    expect(alive(600_000)).toEqual([{ type: "probe", endpoint: "https://one.example" }]);
    const moved = b.input({ type: "probed", ok: true });
    expect(types(moved)).toEqual(["note", "close", "unlinked", "connect"]);
    expect(moved.at(-1)).toEqual(direct);
    b.link(1, [ways(way(1))]);
    expect(alive(1_200_000)).toEqual([]);
    expect(b.input({ type: "probed", ok: true })).toEqual([]);
  });

  test("a working link is not given up while a task runs on it", () => {
    let busy = true;
    const b = bench({ ways: [way(1)], busy: () => busy });
    b.input({ type: "start" });
    b.input({ type: "closed", why: "refused" });
    next(b);
    b.link(1, [ways(way(1))]);
    const probes = () => {
      for (let i = 0; i < 61; i++) {
        b.frame({ t: "ping", id: 1, at: 1 });
        if (b.pass(10_000).some((action) => action.type === "probe")) return true;
      }
      return false;
    };
    expect(probes()).toBe(false);
    busy = false;
    expect(probes()).toBe(true);
    busy = true;
    expect(b.input({ type: "probed", ok: true })).toEqual([]);
  });

  test("a new state changes the ways and not the link; one that names its way no more leaves it too", () => {
    const b = bench({ ways: [way(1), way(2)] });
    b.input({ type: "start" });
    b.input({ type: "closed", why: "refused" });
    next(b);
    b.link(1, [ways(way(2), way(1))]);
    expect(b.session.via).toEqual(way(1));
    expect(types(b.frame(b.state(2, [])))).toEqual(["accept"]);
    b.pass(40_000);
    expect(next(b)).toEqual([direct]);
  });
});

test("a control plane that does not say it takes any kind of event is sent the first kinds alone, which it takes", () => {
  const before = hostEventSchema.extend({ kind: z.enum(FIRST_EVENT_KINDS as [string]) });
  const events = [
    { at: 1, kind: "drift_repaired", item: "r", detail: "a" },
    { at: 2, kind: "disk_failed", detail: "no space" },
  ];
  for (const anyEvents of [false, true]) {
    const bench = new SessionBench();
    bench.hello();
    bench.welcome(anyEvents ? { anyEvents } : {});
    bench.frame(bench.state(1, []));
    const [action] = bench.input({ type: "send", frame: { t: "observe", at: 3, values: {}, events } });
    const sent = (action as { frame: { events: HostEvent[] } }).frame.events;
    if (anyEvents) expect(sent).toEqual(events);
    else {
      expect(sent).toEqual([events[0], { at: 2, kind: "apply_failed", detail: "disk_failed: no space" }]);
      for (const event of sent) expect(before.safeParse(event).success).toBe(true);
    }
  }
});
