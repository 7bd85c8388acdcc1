import { generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type WebSocket, WebSocketServer } from "ws";
import { note, propertySeed } from "../../control-plane/testing/note.ts";
import { type Id, newId } from "../../shared/ids.ts";
import { type StateItem, stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import { MAX_FRAME_DOWN, SUBPROTOCOL } from "../../shared/protocol/frames.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";
import { type Dice, dice, pick } from "../../shared/testing/dice.ts";
import { throwOne } from "../../shared/testing/fuzz.ts";
import { makeKeys, sha256OfCanonical, signer, verifier } from "../keys.ts";
import { Reconciler } from "../reconcile.ts";
import { StateStore } from "../state-store.ts";
import { ModelDriver, newKernel } from "../testing/model-kernel.ts";
import { relayItem, SessionBench } from "../testing/session-bench.ts";
import { LinkSession } from "./session.ts";
import type { SessionAction } from "./session-types.ts";
import { LinkShell } from "./shell.ts";

/** How many frames: `FC_RUNS` for more. Each over a socket is answered before the next. */
const FRAMES = Number(process.env.FC_RUNS ?? 1000);
const STRAIGHT = 10 * FRAMES;
const silent = { info() {}, warn() {}, error() {} };
const bytes = (n: number) => new Uint8Array(10).fill(n);
const HOST = newId("hst", 1, bytes(1));
const OTHER_HOST = newId("hst", 1, bytes(2));

const plane = generateKeyPairSync("ed25519");
const stranger = generateKeyPairSync("ed25519");
const publicKey = Buffer.from(plane.publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");

/** The state the host holds before the attack, and one that must never reach its kernel. */
const GOOD = [relayItem("r5", 5)];
const EVIL = [relayItem("evil", 666)];
const REV = 50;

function stateFrame(rev: number, items: StateItem[], { hostId = HOST, key = plane } = {}) {
  const sha256 = sha256OfCanonical(items);
  const value = sign(null, stateSignedBytes({ hostId, rev, sha256 }), key.privateKey).toString("base64");
  return { t: "state", rev, sha256, items, signature: { keyId: "key-1", value } };
}

let nextTask = 0;
function taskFrame({
  hostId = HOST,
  key = plane,
  deadlineAt = Date.now() + 60_000,
  id = undefined as Id<"tsk"> | undefined,
}) {
  const n = ++nextTask;
  const task =
    id ??
    newId(
      "tsk",
      5,
      Uint8Array.from({ length: 10 }, (_, i) => (n >> (8 * (i % 4))) & 255),
    );
  const params = { target: "10.13.13.2", interface: null, count: 1, intervalMs: 1000 };
  const signed = taskSignedBytes({ hostId, id: task, kind: "ping", params, deadlineAt });
  const value = sign(null, signed, key.privateKey).toString("base64");
  return { t: "task", id: task, kind: "ping", params, deadlineAt, signature: { keyId: "key-1", value } };
}

/** What someone between host and control plane can throw: what was recorded, what is signed for others, what he signs himself. */
const replays: Record<string, () => unknown> = {
  "older state of this host": () => stateFrame(REV - 1, EVIL),
  "state for another host": () => stateFrame(REV + 1, EVIL, { hostId: OTHER_HOST }),
  "state by another key": () => stateFrame(REV + 1, EVIL, { key: stranger }),
  "state with other items": () => ({ ...stateFrame(REV + 1, GOOD), items: EVIL }),
  "state with another revision": () => ({ ...stateFrame(REV - 1, EVIL), rev: REV + 1 }),
  "unchanged, of what is not held": () => ({ ...stateFrame(REV + 1, EVIL), items: null }),
  "task past its deadline": () => taskFrame({ deadlineAt: Date.now() - 1 }),
  "task of another host": () => taskFrame({ hostId: OTHER_HOST }),
  "task by another key": () => taskFrame({ key: stranger }),
  "task with other parameters": () => ({ ...taskFrame({}), params: { target: "192.0.2.1" } }),
  "task taken before": () => seenTask,
  "challenge again": () => ({ t: "challenge", nonce: "n".repeat(32), serverTime: 0 }),
};
const seenTask = taskFrame({ deadlineAt: Date.now() + 3_600_000 });

const samples: Record<string, unknown>[] = [
  { t: "challenge", nonce: "n".repeat(48), serverTime: 1 },
  { t: "welcome", session: newId("lnk", 1, bytes(3)), heartbeatMs: 15_000, silenceMs: 40_000 },
  stateFrame(REV + 1, EVIL, { key: stranger }),
  { ...taskFrame({ key: stranger }) },
  { t: "task.cancel", id: newId("tsk", 1, bytes(4)) },
  { t: "bye", reason: "draining", reconnectAfterMs: 1 },
  { t: "ping", id: 1, at: 1 },
  { t: "pong", id: 1, at: 1 },
];

let http: Server;
let wss: WebSocketServer;
let url: string;
let dir: string;
let onLink: (ws: WebSocket) => void;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "trunkline-fuzz-"));
  http = createServer();
  wss = new WebSocketServer({ server: http, handleProtocols: () => SUBPROTOCOL });
  wss.on("connection", (ws) => {
    ws.on("error", () => {});
    onLink(ws);
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
});
afterEach(async () => {
  for (const client of wss.clients) client.terminate();
  await new Promise((resolve) => http.close(resolve));
  rmSync(dir, { recursive: true, force: true });
});

/** The real link, reconciler and store of an agent, over a model of a kernel. */
function startAgent() {
  const keys = makeKeys("forward");
  const store = new StateStore(join(dir, "state"), silent);
  const kernel = newKernel();
  const performed: SessionAction[] = [];
  let skippedMs = 0;
  const now = () => ({ mono: performance.now() + skippedMs, wall: Date.now() });
  const clock = {
    wall: Date.now,
    mono: () => now().mono,
    wait: (ms: number, signal: AbortSignal) =>
      new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        signal.addEventListener("abort", () => {
          clearTimeout(timer);
          resolve();
        });
      }),
  };
  const reconciler = new Reconciler({
    drivers: [new ModelDriver("relay", kernel)],
    clock,
    log: silent,
    onReport: (report) => shell.input({ type: "report", ...report }),
    onEvents() {},
  });
  const session = new LinkSession({
    hostId: HOST,
    version: "0.1.0",
    bootId: "b",
    capabilities: [],
    endpoints: [url],
    controlPlaneKeyId: "key-1",
    epoch: 0,
    accepted: null,
    applied: null,
    sign: signer(keys.identity),
    verify: verifier(publicKey),
    sha256: sha256OfCanonical,
    random: () => 0,
  });
  const shell: LinkShell = new LinkShell({
    session,
    log: silent,
    now,
    perform(action) {
      performed.push(action);
      if (action.type === "saveEpoch") store.saveEpoch(action.epoch);
      else if (action.type === "saveApplied") store.saveApplied(action.applied);
      else if (action.type === "accept") {
        store.saveState(action.state);
        reconciler.want({ rev: action.state.rev, sha256: action.state.sha256, ...action.read });
      } else if (action.type === "recheck") reconciler.recheck();
      // A goodbye may send the agent away for minutes: here they pass at once.
      else if (action.type === "unlinked")
        setImmediate(() => {
          skippedMs += Math.max(0, (session.nextWake() ?? 0) - now().mono);
          shell.input({ type: "tick" });
        });
    },
  });
  const running = reconciler.run();
  shell.start();
  return {
    session,
    store,
    kernel,
    performed,
    async stop() {
      shell.stop();
      reconciler.stop();
      await running;
    },
  };
}

/** One link on which so many of these are thrown as it takes until the agent hangs up; at which moment of it, is drawn. */
function attack(ws: WebSocket, random: Dice, draw: () => { kind: string; data: string | Uint8Array } | undefined) {
  const welcome = { t: "welcome", session: newId("lnk", 1, bytes(5)), heartbeatMs: 15_000, silenceMs: 40_000 };
  const say = (frame: unknown) => ws.send(JSON.stringify(frame));
  // One at a time: the agent answers a ping at any moment, or hangs up.
  const volley = async () => {
    for (let n = 0; n < 40 && ws.readyState === ws.OPEN; n++) {
      const thrown = draw();
      if (thrown === undefined) break;
      const answered = new Promise<void>((resolve) => {
        ws.once("close", () => resolve());
        ws.on("message", function hear(data) {
          if (!String(data).includes(`"pong","id":${n + 1000},`)) return;
          ws.off("message", hear);
          resolve();
        });
      });
      ws.send(thrown.data);
      say({ t: "ping", id: n + 1000, at: 0 });
      await answered;
    }
    // Who took it all is told goodbye, so that the next link begins.
    if (ws.readyState === ws.OPEN) say({ t: "bye", reason: "draining", reconnectAfterMs: 0 });
  };
  const moment = pick(["challenge", "welcome", "state", "linked", "linked", "linked"], Math.floor(random() * 6));
  if (moment === "challenge") {
    void volley();
    return;
  }
  say({ t: "challenge", nonce: "n".repeat(32), serverTime: Date.now() });
  ws.once("message", () => {
    if (moment !== "welcome") say(welcome);
    if (moment === "linked") say(stateFrame(REV, GOOD));
    void volley();
  });
}

test("an agent in the hands of a stranger obeys nothing, forgets nothing, and serves its control plane afterwards", async () => {
  const random = dice(propertySeed("frames to the agent"));
  const counts: Record<string, number> = {};
  let left = FRAMES;
  const names = Object.keys(replays);
  const draw = () => {
    if (left <= 0) return undefined;
    left--;
    const name = random() < 0.2 ? pick(names, Math.floor(random() * names.length)) : undefined;
    const thrown =
      name === undefined ? throwOne(random, samples, "t") : { kind: name, data: JSON.stringify(replays[name]?.()) };
    counts[thrown.kind] = (counts[thrown.kind] ?? 0) + 1;
    return thrown;
  };

  // First the true control plane: a state, and a task.
  let phase: "good" | "attack" | "good again" = "good";
  onLink = (ws) => {
    if (phase === "attack") {
      attack(ws, random, draw);
      return;
    }
    ws.send(JSON.stringify({ t: "challenge", nonce: "n".repeat(32), serverTime: Date.now() }));
    ws.once("message", () => {
      const welcome = { t: "welcome", session: newId("lnk", 1, bytes(5)), heartbeatMs: 15_000, silenceMs: 40_000 };
      const state = phase === "good" ? stateFrame(REV, GOOD) : stateFrame(REV + 1, [...GOOD, relayItem("r6", 6)]);
      for (const frame of [welcome, state, ...(phase === "good" ? [seenTask] : [])]) ws.send(JSON.stringify(frame));
    });
  };
  const agent = startAgent();
  try {
    await expect.poll(() => agent.performed.some((a) => a.type === "task"), { timeout: 20_000 }).toBe(true);
    await expect.poll(() => [...agent.kernel.held], { timeout: 20_000 }).toEqual([[5, "r5"]]);
    const writes = agent.kernel.writes;
    agent.performed.length = 0;

    phase = "attack";
    for (const ws of wss.clients) ws.close();
    await expect.poll(() => left, { timeout: 500_000, interval: 100 }).toBe(0);

    const done: Record<string, number> = {};
    for (const action of agent.performed) done[action.type] = (done[action.type] ?? 0) + 1;
    note(`frames to the agent: ${FRAMES} by kind ${JSON.stringify(counts)}`);
    note(`frames to the agent: it did ${JSON.stringify(done)}, refused ${agent.session.counters.refused}`);
    // Cancelling a task needs no signature: it stops, and commands nothing.
    const obeyed = agent.performed.filter((a) => a.type === "accept" || a.type === "task");
    expect(obeyed).toEqual([]);
    expect([...agent.kernel.held]).toEqual([[5, "r5"]]);
    expect(agent.kernel.writes).toBe(writes);
    expect(agent.store.state()).toMatchObject({ rev: REV, items: GOOD });

    phase = "good again";
    for (const ws of wss.clients) ws.close();
    await expect.poll(() => [...agent.kernel.held.keys()], { timeout: 20_000 }).toEqual([5, 6]);
  } finally {
    await agent.stop();
  }
}, 600_000);

test("ten thousand more, straight to the session at every moment of its life: none throws, none is obeyed", () => {
  const random = dice(propertySeed("frames to the session"));
  const counts: Record<string, number> = {};
  const moments = ["challenge", "welcome", "state", "linked"] as const;
  for (let thrown = 0; thrown < STRAIGHT; ) {
    const bench = new SessionBench();
    const moment = pick(moments, Math.floor(random() * moments.length));
    if (moment === "linked") bench.link(5, GOOD);
    else {
      bench.input({ type: "start" });
      bench.input({ type: "opened" });
      if (moment !== "challenge") bench.hello();
      if (moment === "state") bench.welcome();
    }
    for (let n = 0; n < 20 && bench.session.phase !== "waiting"; n++, thrown++) {
      const one = throwOne(random, samples, "t");
      counts[one.kind] = (counts[one.kind] ?? 0) + 1;
      const input =
        typeof one.data === "string" ? { type: "text" as const, text: one.data } : { type: "binary" as const };
      for (const action of bench.input(input)) expect(["accept", "task", "saveApplied"]).not.toContain(action.type);
    }
    expect(bench.session.accepted?.rev).toBe(moment === "linked" ? 5 : undefined);
  }
  note(`frames to the session: ${JSON.stringify(counts)}`);
});

test("frames that are too large, or no text, end the link and nothing else", async () => {
  const monsters = [
    `{"t":"ping","id":1,"at":1,"pad":"${"x".repeat(MAX_FRAME_DOWN)}"}`,
    "x".repeat(8 * MAX_FRAME_DOWN),
    `{"t":"state","items":${"[".repeat(400_000)}${"]".repeat(400_000)}}`,
    new Uint8Array(100_000),
  ];
  let links = 0;
  onLink = (ws) => {
    const monster = monsters[links++];
    if (monster !== undefined) ws.send(monster);
  };
  const agent = startAgent();
  try {
    await expect.poll(() => links, { timeout: 60_000 }).toBeGreaterThan(monsters.length);
    expect(agent.performed.map((a) => a.type).filter((type) => type !== "unlinked")).toEqual([]);
  } finally {
    await agent.stop();
  }
});
