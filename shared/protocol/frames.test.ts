import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../../control-plane/testing/note.ts";
import { MAX_FRAME_DOWN, MAX_FRAME_UP, parseAgentFrame, parseServerFrame } from "./frames.ts";

const KEY = "l2bFqBBtFSTqQfkPVLqsRkuF7NBSOkzUtvc9nmYOZ3w=";
const SIGNATURE = `${"A".repeat(86)}==`;
const SHA = "0".repeat(64);
const HOST = `hst_${"0".repeat(26)}`;
const TASK = `tsk_${"0".repeat(26)}`;
const signature = { keyId: "k", value: SIGNATURE };

const UP = [
  {
    t: "hello",
    hostId: HOST,
    epoch: 1,
    signature: SIGNATURE,
    version: "1",
    bootId: "b",
    capabilities: ["nft"],
    applied: { rev: 1, sha256: SHA },
  },
  { t: "ack", rev: 3, sha256: SHA, results: [{ item: "tunnel", ok: false, error: "no" }] },
  {
    t: "observe",
    at: 1,
    values: {
      load1: 0.5,
      wireguard: [
        {
          interface: "tl0",
          peers: [{ publicKey: KEY, endpoint: null, lastHandshakeAt: null, rxBytes: 1, txBytes: 2 }],
        },
      ],
    },
    events: [{ at: 1, kind: "drift_repaired", detail: "x" }],
  },
  { t: "task.event", id: TASK, seq: 0, data: { any: ["thing"] } },
  { t: "task.end", id: TASK, outcome: { ok: true, result: 1 } },
  { t: "ping", id: 1, at: 1 },
  { t: "pong", id: 1, at: 1 },
];
const DOWN = [
  { t: "challenge", nonce: "n".repeat(48), serverTime: 1 },
  { t: "welcome", session: `lnk_${"0".repeat(26)}`, heartbeatMs: 1, silenceMs: 2 },
  {
    t: "state",
    rev: 0,
    sha256: SHA,
    items: [{ type: "uplink", id: "uplink", address: "10.0.0.1", port: 1 }],
    signature,
  },
  { t: "state", rev: 0, sha256: SHA, items: null, signature },
  { t: "task", id: TASK, kind: "ping", params: {}, deadlineAt: 1, signature },
  { t: "task.cancel", id: TASK },
  { t: "bye", reason: "draining", reconnectAfterMs: 1 },
  { t: "ping", id: 1, at: 1 },
  { t: "pong", id: 1, at: 1 },
];

const SIDES = [
  { name: "agent's", parse: parseAgentFrame, frames: UP, max: MAX_FRAME_UP },
  { name: "control plane's", parse: parseServerFrame, frames: DOWN, max: MAX_FRAME_DOWN },
] as const;

test.each(SIDES)("every kind of the $name frames is read as what it is", ({ parse, frames }) => {
  for (const frame of frames) expect(parse(JSON.stringify(frame))).toEqual({ kind: "frame", frame });
});

test.each(SIDES)(
  "no text makes the reader of the $name frames throw, and what it takes has a known type",
  ({ name, parse, frames }) => {
    const known = new Set<string>(frames.map((frame) => frame.t));
    const junk = fc.oneof(
      fc.string(),
      fc.json(),
      fc.string({ unit: "binary" }),
      fc.jsonValue().map((value) => JSON.stringify(value)),
    );
    const named = fc
      .tuple(fc.oneof(fc.constantFrom(...known), fc.string()), fc.object({ maxDepth: 3 }))
      .map(([t, more]) =>
        JSON.stringify({ ...more, t }, (_, value) => (typeof value === "bigint" ? String(value) : value)),
      );
    fc.assert(
      fc.property(fc.oneof(junk, named), (text) => {
        const parsed = parse(text);
        if (parsed.kind === "frame") expect(known.has(parsed.frame.t)).toBe(true);
        if (parsed.kind === "unknown") expect(known.has(parsed.t)).toBe(false);
        if (parsed.kind === "bad") expect(parsed.reason.length).toBeLessThanOrEqual(120);
      }),
      { seed: propertySeed(`${name} frames, random`), numRuns: 500 },
    );
  },
);

test.each(SIDES)(
  "a $name frame with a byte cut, doubled or changed is read, or refused, but never throws",
  ({ name, parse, frames }) => {
    const texts = frames.map((frame) => JSON.stringify(frame));
    fc.assert(
      fc.property(
        fc.constantFrom(...texts),
        fc.array(
          fc.tuple(fc.constantFrom("cut", "double", "change"), fc.nat(), fc.string({ minLength: 1, maxLength: 1 })),
          { minLength: 1, maxLength: 4 },
        ),
        (text, changes) => {
          let mutated = text;
          for (const [how, where, character] of changes) {
            const at = where % Math.max(1, mutated.length);
            const middle = how === "cut" ? "" : how === "double" ? (mutated[at] ?? "").repeat(2) : character;
            mutated = mutated.slice(0, at) + middle + mutated.slice(at + 1);
          }
          expect(["frame", "unknown", "bad"]).toContain(parse(mutated).kind);
        },
      ),
      { seed: propertySeed(`${name} frames, mutated`), numRuns: 500 },
    );
  },
);

test.each(SIDES)("each field of a $name frame is checked: another type, or none, is refused", ({ parse, frames }) => {
  const may = new Set(["data", "params", "error", "epoch", "events"]);
  for (const frame of frames)
    for (const field of Object.keys(frame).filter((f) => f !== "t" && !may.has(f))) {
      const without = { ...frame, [field]: undefined };
      expect([frame.t, field, parse(JSON.stringify(without)).kind]).toEqual([frame.t, field, "bad"]);
      const wrong = { ...frame, [field]: { no: "such" } };
      if (field !== "values")
        expect([frame.t, field, parse(JSON.stringify(wrong)).kind]).toEqual([frame.t, field, "bad"]);
    }
});

test.each(SIDES)("a $name frame over its size is refused unread, measured in bytes", ({ parse, max }) => {
  const ping = (filler: string) => JSON.stringify({ t: "ping", id: 1, at: 1, filler });
  const room = max - ping("").length;
  expect(parse(ping("x".repeat(room))).kind).toBe("frame");
  expect(parse(ping("x".repeat(room + 1)))).toEqual({ kind: "bad", reason: "frame too large" });
  expect(parse(ping("ü".repeat(room / 2 + 1)))).toEqual({ kind: "bad", reason: "frame too large" });
});

test("a revision no control plane can have reached is refused: it would be stored, and counted on from", () => {
  const ack = (rev: number) => parseAgentFrame(JSON.stringify({ t: "ack", rev, sha256: SHA, results: [] })).kind;
  expect([ack(0), ack(2 ** 50), ack(2 ** 50 + 1), ack(Number.MAX_SAFE_INTEGER), ack(-1), ack(1.5)]).toEqual([
    "frame",
    "frame",
    "bad",
    "bad",
    "bad",
    "bad",
  ]);
});

test("times that no date can say or no row can hold are refused: what a host says of itself is stored and shown", () => {
  const observe = (values: object) => JSON.stringify({ t: "observe", at: 1, values, events: [] });
  const path = { target: "192.0.2.1", at: 1, sent: 5, received: 5, minMs: 1, p50Ms: 2, maxMs: 3 };
  const peer = { publicKey: KEY, endpoint: null, lastHandshakeAt: 1, rxBytes: 1, txBytes: 2 };
  const wireguard = (lastHandshakeAt: number) => [{ interface: "tl0", peers: [{ ...peer, lastHandshakeAt }] }];
  expect(parseAgentFrame(observe({ paths: [path], wireguard: wireguard(1) })).kind).toBe("frame");
  for (const values of [
    { paths: [{ ...path, p50Ms: 1e13 }] },
    { paths: [{ ...path, at: -1 }] },
    { wireguard: wireguard(-9e15) },
    { wireguard: wireguard(1e16) },
  ])
    expect(parseAgentFrame(observe(values)).kind, JSON.stringify(values)).toBe("bad");
  expect(parseAgentFrame(JSON.stringify({ t: "pong", id: 1, at: 1e300 })).kind).toBe("bad");
});
