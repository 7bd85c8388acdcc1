import fc from "fast-check";
import { expect, test } from "vitest";
import type { Id } from "../../shared/ids.ts";
import { propertySeed } from "../testing/note.ts";
import { type Action, ServerSession, type SignedState } from "./session.ts";

const HOST = `hst_${"0".repeat(26)}` as Id<"hst">;
const LINK = `lnk_${"0".repeat(26)}` as Id<"lnk">;
const SHA = (n: number) => n.toString(16).padStart(64, "0");
const SIGNATURE = `${"A".repeat(86)}==`;
const NONCE = "n".repeat(48);

function state(rev: number, content = rev): SignedState {
  return { rev, sha256: SHA(content), items: [], signature: { keyId: "k", value: SIGNATURE } };
}

/** A session driven by hand, with what it asked for kept. */
class Bench {
  now = 1000;
  readonly session: ServerSession;
  readonly actions: Action[] = [];

  constructor() {
    this.session = new ServerSession(NONCE, this.now);
    this.do(this.session.start(5000));
  }

  do(actions: Action[]): Action[] {
    this.actions.push(...actions);
    return actions;
  }
  receive(frame: unknown): Action[] {
    return this.do(this.session.receive(typeof frame === "string" ? frame : JSON.stringify(frame), this.now, 5000));
  }
  hello(applied: { rev: number; sha256: string } | null = null): Action[] {
    return this.receive({
      t: "hello",
      hostId: HOST,
      epoch: 3,
      signature: SIGNATURE,
      version: "1",
      bootId: "b",
      capabilities: [],
      applied,
    });
  }
  /** Up to the first state in flight. */
  join(rev = 1, applied: { rev: number; sha256: string } | null = null): this {
    this.hello(applied);
    this.do(this.session.identified({ ok: true, session: LINK }));
    this.do(this.session.loaded(state(rev), this.now));
    return this;
  }
  ack(rev: number): Action[] {
    return this.receive({ t: "ack", rev, sha256: SHA(rev), results: [] });
  }
  loaded(rev: number): Action[] {
    return this.do(this.session.loaded(state(rev), this.now));
  }
  changed(): Action[] {
    return this.do(this.session.changed());
  }
  pass(ms: number): Action[] {
    this.now += ms;
    return this.do(this.session.tick(this.now, 5000));
  }
}

const does = (actions: Action[]) =>
  actions.map((action) =>
    action.do === "send" ? `send ${action.frame.t}` : action.do === "close" ? `close ${action.reason}` : action.do,
  );
const frames = (actions: Action[]) => actions.flatMap((action) => (action.do === "send" ? [action.frame] : []));

test("a link begins with a challenge, a hello that is identified, a welcome, and then the state", () => {
  const b = new Bench();
  expect(frames(b.actions)).toEqual([{ t: "challenge", nonce: NONCE, serverTime: 5000 }]);
  expect(b.hello()).toEqual([
    { do: "identify", hello: expect.objectContaining({ hostId: HOST, epoch: 3 }), nonce: NONCE },
  ]);
  expect(b.session.joined).toBe(false);
  expect(does(b.do(b.session.identified({ ok: true, session: LINK })))).toEqual(["send welcome", "load"]);
  expect(frames(b.loaded(4))).toEqual([{ t: "state", ...state(4) }]);
  expect(b.session.joined).toBe(true);
});

test("a host that holds the revision and its hash is told unchanged; the same revision with another hash is sent whole", () => {
  const [same] = frames(new Bench().join(4, { rev: 4, sha256: SHA(4) }).actions).slice(-1);
  expect(same).toMatchObject({ t: "state", rev: 4, items: null });
  const [other] = frames(new Bench().join(4, { rev: 4, sha256: SHA(9) }).actions).slice(-1);
  expect(other).toMatchObject({ t: "state", rev: 4, items: [] });
});

test("revision 0 is a real state and is sent", () => {
  expect(frames(new Bench().join(0).actions).at(-1)).toMatchObject({ t: "state", rev: 0 });
});

test("one state is in flight: what changes meanwhile is sent after its ack, once, as the latest", () => {
  const b = new Bench().join(1);
  for (let i = 0; i < 5; i++) expect(b.changed()).toEqual([]);
  expect(does(b.ack(1))).toEqual(["ack", "load"]);
  expect(b.changed()).toEqual([]);
  expect(frames(b.loaded(6))).toMatchObject([{ t: "state", rev: 6 }]);
  expect(does(b.ack(6))).toEqual(["ack", "load"]);
  // The change that came while loading was in what was loaded: nothing new to send.
  expect(b.loaded(6)).toEqual([]);
});

test("a change while nothing is in flight is loaded at once", () => {
  const b = new Bench().join(1);
  b.ack(1);
  expect(does(b.changed())).toEqual(["load"]);
  expect(frames(b.loaded(2))).toMatchObject([{ rev: 2 }]);
});

test("whatever changes and acks come in what order, at most one state is unacknowledged, and the last one sent is the latest", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom("change", "ack", "load"), { maxLength: 60 }), (steps) => {
      const b = new Bench().join(1);
      let desired = 1;
      let unacknowledged = 1;
      let loads = 0;
      let inFlight = 1;
      const follow = (actions: Action[]) => {
        for (const action of actions) {
          if (action.do === "load") loads++;
          if (action.do === "send" && action.frame.t === "state") {
            unacknowledged++;
            inFlight = action.frame.rev;
            expect(action.frame.rev).toBe(desired);
          }
        }
        expect(unacknowledged).toBeLessThanOrEqual(1);
        expect(loads).toBeLessThanOrEqual(1);
      };
      const load = () => {
        if (loads === 0) return;
        loads--;
        follow(b.loaded(desired));
      };
      const ack = () => {
        if (unacknowledged === 0) return;
        unacknowledged = 0;
        follow(b.ack(inFlight));
      };
      for (const step of steps) {
        if (step === "change") {
          desired++;
          follow(b.changed());
        } else if (step === "ack") ack();
        else load();
      }
      for (let i = 0; i < 4; i++) {
        load();
        ack();
      }
      expect(b.session.sentRev).toBe(desired);
    }),
    { seed: propertySeed("one in flight"), numRuns: 500 },
  );
});

test("an ack of a revision that was never sent proves nothing: it is counted and dropped", () => {
  const b = new Bench().join(3);
  expect(b.ack(4)).toEqual([{ do: "count", what: "refused_frame" }]);
  expect(does(b.ack(3))).toEqual(["ack"]);
  const early = new Bench();
  early.hello();
  early.do(early.session.identified({ ok: true, session: LINK }));
  expect(early.ack(0)).toEqual([{ do: "count", what: "refused_frame" }]);
});

test("a state that is not acknowledged does not hold up the next for ever", () => {
  const b = new Bench().join(1);
  b.changed();
  for (let waited = 0; waited < 60_000; waited += 10_000) {
    b.receive({ t: "ping", id: 1, at: 1 });
    expect(does(b.pass(10_000))).not.toContain("load");
  }
  b.receive({ t: "ping", id: 1, at: 1 });
  expect(does(b.pass(1))).toContain("load");
});

test("a state that is not acknowledged in time is sent again, though nothing changed: it may have been lost", () => {
  const b = new Bench().join(1);
  for (let waited = 0; waited < 60_000; waited += 10_000) {
    b.receive({ t: "ping", id: 1, at: 1 });
    b.pass(10_000);
  }
  b.receive({ t: "ping", id: 1, at: 1 });
  expect(does(b.pass(1))).toEqual(["load"]);
  expect(frames(b.loaded(1))).toEqual([{ t: "state", ...state(1) }]);
  expect(does(b.ack(1))).toEqual(["ack"]);
  expect(does(b.changed())).toEqual(["load"]);
  expect(b.loaded(1)).toEqual([]);
});

test("an ack of other content than was sent proves nothing: it is reported, and the host starts anew", () => {
  const b = new Bench().join(3);
  const actions = b.receive({ t: "ack", rev: 3, sha256: SHA(99), results: [] });
  expect(does(actions)).toEqual(["count", "report", "send bye", "close bad_frame"]);
  expect(actions[1]).toMatchObject({ kind: "ack_refused", detail: expect.stringContaining("revision 3") });
});

test("an ack that was overtaken by a newer one does not take the host back", () => {
  const b = new Bench().join(3);
  b.ack(3);
  b.changed();
  b.loaded(4);
  expect(does(b.ack(3))).toEqual(["ack"]);
  expect(does(b.ack(4))).toEqual(["ack"]);
  expect(b.ack(3)).toEqual([{ do: "count", what: "refused_frame" }]);
  expect(does(b.ack(4))).toEqual(["ack"]);
});

test("a host that took a later state is not told unchanged: what it could not apply may have changed what it had", () => {
  const b = new Bench();
  const applied = { rev: 4, sha256: SHA(4) };
  b.receive({
    t: "hello",
    hostId: HOST,
    epoch: 3,
    signature: SIGNATURE,
    version: "1",
    bootId: "b",
    capabilities: [],
    applied,
    accepted: { rev: 4, sha256: SHA(5) },
  });
  b.do(b.session.identified({ ok: true, session: LINK }));
  expect(frames(b.loaded(4))).toMatchObject([{ t: "state", rev: 4, items: [] }]);
});

test("a state that no agent would take is told to operators once, not sent, and what follows goes out", () => {
  const b = new Bench().join(1);
  b.ack(1);
  b.changed();
  const domains = Array.from({ length: 20_000 }, (_, i) => `n${i}.${"a".repeat(60)}.example`);
  const items = [
    { type: "whitelist" as const, id: "whitelist", interface: "tl0", cidrs: [], domains, outInterface: null },
  ];
  const actions = b.do(b.session.loaded({ ...state(2), items }, b.now));
  expect(does(actions)).toEqual(["report"]);
  expect(actions[0]).toMatchObject({ kind: "state_too_large", detail: expect.stringContaining("revision 2") });
  // Not again by time or by a wake-up for the same revision.
  expect(does(b.pass(14_000))).toEqual([]);
  expect(b.session.sentRev).toBe(2);
  b.changed();
  expect(does(b.do(b.session.loaded({ ...state(2), items }, b.now)))).toEqual([]);
  b.changed();
  expect(frames(b.loaded(3))).toEqual([{ t: "state", ...state(3) }]);
});

test("a heartbeat every 15 s; after 40 s of silence the link is dead, and any frame is a sign of life", () => {
  const b = new Bench().join(1);
  expect(b.pass(14_999)).toEqual([]);
  expect(does(b.pass(1))).toEqual(["send ping"]);
  b.receive({ t: "pong", id: 1, at: 5000 });
  let closed: string[] = [];
  for (let waited = 0; waited < 40_000; waited += 1000)
    closed = does(b.pass(1000)).filter((d) => d.startsWith("close"));
  expect(closed).toEqual([]);
  expect(does(b.pass(1))).toEqual(["close silent"]);
});

test("a pong measures the host's clock by the midpoint of its round trip", () => {
  const b = new Bench().join(1);
  b.do(b.session.ping(b.now, 10_000));
  b.now += 100;
  expect(b.receive({ t: "pong", id: 1, at: 13_050 })).toEqual([{ do: "clockOffset", ms: 3000 }]);
  expect(b.receive({ t: "pong", id: 99, at: 0 })).toEqual([]);
});

test("a socket without a hello is closed after 10 s", () => {
  const b = new Bench();
  expect(b.pass(10_000)).toEqual([]);
  expect(does(b.pass(1))).toEqual(["close hello_timeout"]);
});

test("the time a hello waits to be checked is ours: the link is closed only after a minute of it, pings or not", () => {
  const b = new Bench();
  b.pass(9_000);
  b.hello();
  for (let waited = 0; waited < 60_000; waited += 10_000) {
    expect(b.pass(10_000)).toEqual([]);
    expect(does(b.receive({ t: "ping", id: 1, at: 0 }))).toEqual(["send pong"]);
  }
  expect(does(b.pass(1))).toEqual(["close hello_timeout"]);
});

test("a frame of an unknown type is counted and ignored; a known one that is wrong closes the link with a reason", () => {
  const b = new Bench().join(1);
  expect(b.receive({ t: "hologram", x: 1 })).toEqual([{ do: "count", what: "unknown_frame" }]);
  expect(b.session.joined).toBe(true);
  const actions = b.receive({ t: "ack", rev: "one" });
  expect(does(actions)).toEqual(["count", "send bye", "close bad_frame"]);
  expect(frames(actions)).toMatchObject([{ t: "bye", reason: "bad_frame" }]);
  expect(does(new Bench().receive("no json"))).toEqual(["count", "send bye", "close bad_frame"]);
});

test("nothing but a ping is taken before the hello, and no second hello after it", () => {
  const ack = { t: "ack", rev: 0, sha256: SHA(0), results: [] };
  const end = { t: "task.end", id: `tsk_${"0".repeat(26)}`, outcome: { ok: true, result: null } };
  for (const frame of [ack, end, { t: "pong", id: 1, at: 1 }, { t: "observe", at: 1, values: {}, events: [] }]) {
    expect(does(new Bench().receive(frame))).toEqual(["count", "send bye", "close bad_frame"]);
    const identifying = new Bench();
    identifying.hello();
    expect(does(identifying.receive(frame))).toEqual(["count", "send bye", "close bad_frame"]);
  }
  expect(does(new Bench().receive({ t: "ping", id: 7, at: 1 }))).toEqual(["send pong"]);
  expect(does(new Bench().join(1).hello())).toEqual(["count", "send bye", "close bad_frame"]);
});

test("a host that is refused is told so; a stale epoch is told the one held, so that it can go past it", () => {
  const refused = new Bench();
  refused.hello();
  const no = refused.do(refused.session.identified({ ok: false, why: "refused" }));
  expect(frames(no)).toMatchObject([{ t: "bye", reason: "refused" }]);
  const stale = new Bench();
  stale.hello();
  const older = stale.do(stale.session.identified({ ok: false, why: "stale_epoch", epoch: 9 }));
  expect(frames(older)).toEqual([{ t: "bye", reason: "stale_epoch", reconnectAfterMs: 0, epoch: 9 }]);
  expect(does(older)).toContain("close stale_epoch");
});

test("a superseded session says so, and from then on does nothing", () => {
  const b = new Bench().join(1);
  const actions = b.do(b.session.close("superseded"));
  expect(frames(actions)).toMatchObject([{ t: "bye", reason: "superseded" }]);
  expect([b.ack(1), b.changed(), b.loaded(2), b.pass(100_000), b.do(b.session.close("draining"))].flat()).toEqual([]);
});

test("a draining control plane sends each host away with the delay it was given", () => {
  const b = new Bench().join(1);
  expect(frames(b.do(b.session.close("draining", 777)))).toMatchObject([
    { t: "bye", reason: "draining", reconnectAfterMs: 777 },
  ]);
});
