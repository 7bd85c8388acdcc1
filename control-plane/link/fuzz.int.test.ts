import { eq } from "drizzle-orm";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { MAX_FRAME_UP, parseAgentFrame } from "../../shared/protocol/frames.ts";
import { dice } from "../../shared/testing/dice.ts";
import { type Thrown, throwOne } from "../../shared/testing/fuzz.ts";
import * as t from "../db/schema/index.ts";
import type { Embedded } from "../entry/embedded.ts";
import { type Client, signedIn, startOn, temporaryDirectory } from "../testing/embedded.ts";
import { FakeAgent, FakeLink } from "../testing/fake-agent.ts";
import { note, propertySeed } from "../testing/note.ts";
import { dumpTables } from "../testing/tables.ts";
import type { LinkHub } from "./hub.ts";

/** How many frames: `FC_RUNS` for more. */
const ON_SOCKETS = Number(process.env.FC_RUNS ?? 1000);
const ON_THE_HUB = 10 * ON_SOCKETS;
const AT_ONCE = 8;
const SHA = "0".repeat(64);
const SIGNATURE = `${"A".repeat(86)}==`;
const TASK = `tsk_${"0".repeat(26)}`;

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let server: Embedded;
let admin: Client;
let victim: FakeAgent;
let liars: FakeAgent[];

async function enrolled(): Promise<FakeAgent> {
  const { body } = await admin<{ token: string }>("POST", "/enrolment-tokens", { role: "forward", regionId: "hk" });
  const agent = new FakeAgent("forward");
  await agent.enrol(server.url, body.token);
  await admin("POST", `/hosts/${agent.hostId}/approve`);
  return agent;
}

beforeAll(async () => {
  directory = await temporaryDirectory();
  server = await startOn(directory.path);
  admin = await signedIn(server.url, server.admin?.name ?? "", server.admin?.password ?? "");
  await admin("PUT", "/regions/hk", { name: "Hong Kong" });
  victim = await enrolled();
  await victim.join(server.url);
  liars = await Promise.all(Array.from({ length: AT_ONCE }, enrolled));
});
afterAll(async () => {
  await server?.stop();
  await directory?.remove();
});

/** Frames as agents send them, about other hosts and revisions too. */
const samples = (): Record<string, unknown>[] => [
  {
    t: "hello",
    hostId: victim.hostId,
    epoch: 9,
    signature: SIGNATURE,
    version: "1",
    bootId: "b",
    capabilities: ["nft"],
    applied: { rev: 1, sha256: SHA },
  },
  { t: "ack", rev: 3, sha256: SHA, results: [{ item: "tunnel", ok: false, error: "no" }], hostId: victim.hostId },
  { t: "observe", at: 1, values: { load1: 0.5 }, events: [{ at: 1, kind: "drift_repaired", detail: "x" }] },
  { t: "task.event", id: TASK, seq: 0, data: { any: ["thing"] } },
  { t: "task.end", id: TASK, outcome: { ok: true, result: 1 } },
  { t: "ping", id: 1, at: 1 },
  { t: "pong", id: 1, at: 1 },
];

const rowOf = async (agent: FakeAgent) => {
  const [row] = await server.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, agent.hostId));
  const { lastSeenAt: _seen, ...rest } = row ?? { lastSeenAt: 0 };
  return rest;
};

/** All but what hosts may say of themselves: a liar that joins does acknowledge its own state. */
async function everythingElse() {
  const { hosts: _hosts, host_events: _events, host_revisions = [], ...rest } = await dumpTables(server.ports);
  return { ...rest, revisions: host_revisions.filter((row) => row.includes(victim.hostId)) };
}

const counts: Record<string, number> = {};
const outcomes: Record<string, number> = {};
const count = (book: Record<string, number>, what: string) => {
  book[what] = (book[what] ?? 0) + 1;
};

/** What the reader makes of it, and so what the link must do. */
function fateOf({ data }: Thrown): "closed" | "open" | "either" {
  const parsed = parseAgentFrame(typeof data === "string" ? data : "");
  return parsed.kind === "bad" ? "closed" : parsed.kind === "unknown" ? "open" : "either";
}

/** A hello is looked at for a while; none of these is signed, so each ends its link. */
function isHello({ data }: Thrown): boolean {
  const parsed = parseAgentFrame(typeof data === "string" ? data : "");
  return parsed.kind === "frame" && parsed.frame.t === "hello";
}

test("frames of strangers and of joined hosts, random and mutated, over sockets: each is answered or let pass, nothing is believed", async () => {
  const random = dice(propertySeed("frames to the control plane"));
  const before = { victim: await rowOf(victim), rest: await everythingElse() };
  let left = ON_SOCKETS;
  const faults: string[] = [];

  const throwAt = async (link: FakeLink) => {
    const gone = () => link.closed;
    // Several on one link, until one ends it.
    for (let n = 0; n < 20 && left > 0 && gone() === undefined; n++) {
      left--;
      const thrown = throwOne(random, samples(), "t");
      count(counts, thrown.kind);
      const fate = isHello(thrown) ? "closed" : fateOf(thrown);
      link.send(thrown.data);
      const id = 100 + n;
      link.send({ t: "ping", id, at: 1 });
      const answered = () => fate !== "closed" && link.of("pong").some((pong) => pong.id === id);
      await vi.waitFor(() => expect(gone() !== undefined || answered()).toBe(true), { timeout: 20_000, interval: 1 });
      const closed = link.of("bye").at(-1)?.reason ?? gone()?.reason;
      count(outcomes, closed ?? "open");
      if (fate === "open" && closed !== undefined)
        faults.push(`${thrown.kind} should be ${fate}, is ${closed}: ${String(thrown.data).slice(0, 200)}`);
    }
    link.cut();
  };

  await Promise.all(
    liars.map(async (liar) => {
      for (let n = 0; left > 0; n++) {
        if (n % 3 === 2) await throwAt(await liar.join(server.url));
        else {
          const stranger = new FakeLink(server.url, () => ({ t: "ping", id: 0, at: 0 }));
          await stranger.next("challenge");
          await throwAt(stranger);
        }
      }
    }),
  );
  expect(faults).toEqual([]);
  expect({ victim: await rowOf(victim), rest: await everythingElse() }).toEqual(before);
  expect(victim.link.closed).toBeUndefined();
  note(`frames to the control plane over sockets: ${JSON.stringify(counts)}, links ended ${JSON.stringify(outcomes)}`);
}, 600_000);

test("ten thousand more, straight to the hub: none throws, none joins, none is believed", async () => {
  const random = dice(propertySeed("frames to the hub"));
  const hub = server.ports.fleet as LinkHub;
  await vi.waitFor(() => expect(hub.size).toBe(1), { timeout: 10_000 });
  const before = { victim: await rowOf(victim), rest: await everythingElse(), joined: hub.size };
  const kinds: Record<string, number> = {};
  const ends: Record<string, number> = {};
  for (let thrown = 0; thrown < ON_THE_HUB; ) {
    let closed: string | undefined;
    const sent: string[] = [];
    const handle = hub.accept({ send: (text) => sent.push(text), close: (_code, reason) => (closed = reason) });
    for (let n = 0; n < 20 && closed === undefined; n++) {
      const one = throwOne(random, samples(), "t");
      count(kinds, one.kind);
      thrown++;
      handle.message(typeof one.data === "string" ? one.data : "");
      if (fateOf(one) === "closed") expect([one.data, closed]).toEqual([one.data, "bad_frame"]);
    }
    if (thrown % 500 < 20) await new Promise((resolve) => setImmediate(resolve));
    await vi.waitFor(() => expect(sent.some((text) => text.includes('"welcome"'))).toBe(false));
    handle.closed();
    count(ends, closed ?? "open");
  }
  expect({ victim: await rowOf(victim), rest: await everythingElse(), joined: hub.size }).toEqual(before);
  note(`frames to the hub: ${JSON.stringify(kinds)}, links ended ${JSON.stringify(ends)}`);
}, 600_000);

test("a frame that is too large is cut off unread, a binary one is no frame, and then a good host is served", async () => {
  const sizes = [MAX_FRAME_UP + 1, 2 * MAX_FRAME_UP, 20 * MAX_FRAME_UP];
  for (const size of sizes) {
    const link = await (liars[0] as FakeAgent).join(server.url);
    link.send(`{"t":"ping","id":1,"at":1,"pad":"${"x".repeat(size)}"}`);
    expect((await link.gone()).code).toBe(1009);
  }
  const good = await enrolled();
  const link = await good.join(server.url);
  await admin("PATCH", `/hosts/${good.hostId}`, { privateAddress: "10.1.2.3" });
  const state = await link.next("state", (s) => (s.items?.length ?? 0) > 0);
  expect(good.trusts(state)).toBe(true);
  await vi.waitFor(async () => expect(await rowOf(good)).toMatchObject({ appliedRev: state.rev }), { timeout: 10_000 });
});
