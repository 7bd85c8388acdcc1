import fc from "fast-check";
import { expect, test } from "vitest";
import { MAX_FRAME_DOWN } from "../../shared/protocol/frames.ts";
import { relayItem, SessionBench, types } from "../testing/session-bench.ts";

/** Actions by which an agent would obey. */
const OBEYS = new Set(["accept", "task", "cancelTask", "saveApplied"]);

const knownTypes = ["challenge", "welcome", "state", "task", "task.cancel", "ping", "pong", "bye"];
const anyFrame = fc.oneof(
  fc.string(),
  fc.json(),
  fc
    .record({ t: fc.oneof(fc.constantFrom(...knownTypes), fc.string()) }, { requiredKeys: ["t"] })
    .chain((base) => fc.object({ maxDepth: 2 }).map((more) => JSON.stringify({ ...more, ...base }))),
);

test("no text of a stranger makes the agent throw or obey, whatever the moment", () => {
  fc.assert(
    fc.property(
      fc.constantFrom("challenge", "welcome", "state", "linked"),
      fc.array(anyFrame, { maxLength: 5 }),
      (at, texts) => {
        const bench = new SessionBench();
        if (at === "linked") bench.link(5, [relayItem("r", 40_000)]);
        else {
          bench.input({ type: "start" });
          bench.input({ type: "opened" });
          if (at !== "challenge") bench.hello();
          if (at === "state") bench.welcome();
        }
        for (const text of texts) {
          const actions = bench.text(text);
          for (const type of types(actions)) expect(OBEYS.has(type) && type !== "cancelTask").toBe(false);
        }
        if (at === "linked") expect(bench.session.accepted?.rev).toBe(5);
      },
    ),
    { numRuns: 500 },
  );
});

test("a signed frame with any one byte changed is not obeyed, unless it still says the same", () => {
  const origin = new SessionBench();
  const items = [relayItem("a", 40_000), relayItem("b", 40_001)];
  const text = JSON.stringify(origin.state(6, items));
  fc.assert(
    fc.property(fc.nat(text.length - 1), fc.string({ minLength: 1, maxLength: 1 }), (at, c) => {
      const bench = new SessionBench();
      bench.link(5);
      const mutated = text.slice(0, at) + c + text.slice(at + 1);
      const accepted = bench.text(mutated).find((action) => action.type === "accept");
      if (accepted?.type === "accept") expect(accepted.state).toMatchObject({ rev: 6, items });
    }),
    { numRuns: 1500 },
  );
});

test("a frame cut short or doubled is not obeyed", () => {
  const text = JSON.stringify(new SessionBench().state(6, [relayItem("a", 40_000)]));
  for (let length = 0; length < text.length; length++) {
    const bench = new SessionBench();
    bench.link(5);
    expect(types(bench.text(text.slice(0, length)))).not.toContain("accept");
  }
  const bench = new SessionBench();
  bench.link(5);
  expect(types(bench.text(text + text))).not.toContain("accept");
});

test("an oversized or deeply nested frame closes the link", () => {
  const nested = `{"t":"task","params":${"[".repeat(400_000)}${"]".repeat(400_000)}}`;
  for (const text of [`{"t":"ping","pad":"${"x".repeat(MAX_FRAME_DOWN)}"}`, nested]) {
    const bench = new SessionBench();
    bench.link(5);
    expect(types(bench.text(text))).toContain("close");
  }
});

test("unknown frame types are counted and otherwise ignored", () => {
  const bench = new SessionBench();
  bench.link(5);
  expect(bench.frame({ t: "telemetry", v: 2 })).toEqual([]);
  expect(bench.session.counters.unknownFrames).toBe(1);
  expect(bench.session.phase).toBe("linked");
});
