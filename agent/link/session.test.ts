import { describe, expect, test } from "vitest";
import { newId } from "../../shared/ids.ts";
import { helloSignedBytes } from "../../shared/protocol/frames.ts";
import { verifier } from "../keys.ts";
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
    expect(types(actions)).toEqual(["saveApplied", "send"]);
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
