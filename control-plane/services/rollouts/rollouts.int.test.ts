import { and, eq } from "drizzle-orm";
import { expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import type { TaskOutcome, UpgradeParams, UpgradeResult } from "../../../shared/protocol/tasks.ts";
import * as t from "../../db/schema/index.ts";
import type { Fleet, TaskEvent } from "../../ports/index.ts";
import { type Harness, makeHarness, type Problem } from "../../testing/harness.ts";
import { signedReleases } from "../../testing/releases.ts";
import { enrolHosts, hostsUp, makePerson, type Person, stockCatalogue, systemOf } from "../../testing/world.ts";
import { joinHosts } from "../hosts/join.ts";
import { claimHosts } from "./claim.ts";
import { rolloutDriver } from "./drive.ts";
import { settleHost } from "./settle.ts";
import { stepRollout } from "./step.ts";

const NEXT = "1.1.0";
const ok = (result: UpgradeResult): TaskOutcome => ({ ok: true, result });
const failed = (code: string): TaskOutcome => ({ ok: false, error: { code, detail: "because" } });

/** Hosts whose answers a test sets; what each was asked is kept. */
class ScriptedFleet implements Fleet {
  readonly answers = new Map<string, TaskOutcome>();
  readonly asked: { hostId: string; params: UpgradeParams }[] = [];
  readonly linked = new Set<string>();
  otherwise: TaskOutcome = ok({ state: "staged" });
  wake(): void {}
  waitApplied: Fleet["waitApplied"] = async (targets) => targets.map(() => false);
  wakeTasks(): void {}
  isLinked(hostId: Id<"hst">): boolean {
    return this.linked.has(hostId);
  }
  async *runTask(...[hostId, task]: Parameters<Fleet["runTask"]>): AsyncGenerator<TaskEvent> {
    if (task.kind !== "upgrade") throw new Error(`not an upgrade: ${task.kind}`);
    this.asked.push({ hostId, params: task.params });
    yield { type: "end", outcome: this.answers.get(hostId) ?? this.otherwise, clockOffsetMs: undefined };
  }
}

async function makeFleet(roles: { boarding?: number; forward?: number; exit?: number } = { exit: 4 }) {
  const fleet = new ScriptedFleet();
  const releases = signedReleases(["0.9.0", "1.0.0", NEXT], { unsigned: ["1.2.0"], foreign: ["1.3.0"] });
  const h = await makeHarness({ fleet, releases });
  await stockCatalogue(h);
  const admin = await makePerson(h, "admin", "admin");
  const hosts: Id<"hst">[] = [];
  for (const [role, count] of Object.entries(roles)) hosts.push(...(await enrolHosts(h, role as "exit", count)).sort());
  await hostsUp(h);
  for (const id of hosts) fleet.linked.add(id);
  const driver = rolloutDriver(h.ports);
  const work: Promise<void>[] = [];
  const { background } = h.ports;
  h.ports.background = (promise) => {
    work.push(promise);
    background(promise);
  };
  /** One turn of this process, to its end; then what is due. */
  const turn = async () => {
    await driver.turn();
    await Promise.all(work.splice(0));
    await h.runJobs();
  };
  const states = async () => {
    const rows = await h.ports.db.read.select().from(t.rolloutHosts).orderBy(t.rolloutHosts.hostId);
    return hosts.map((id) => rows.findLast((row) => row.hostId === id)?.state ?? "none");
  };
  return { h, fleet, admin, hosts, turn, states };
}

const start = (h: Harness, admin: Person, body: Record<string, unknown> = {}) =>
  h.request<{ id: Id<"rol">; state: string; haltReason: string | null; hosts: Record<string, number> }>(
    "POST",
    "/rollouts",
    { version: NEXT, target: {}, soakS: 0, batch: 2, ...body },
    { headers: admin.auth },
  );
const read = (h: Harness, admin: Person, id: string) =>
  h.request<{ state: string; haltReason: string | null; waitUntil: string | null }>(
    "GET",
    `/rollouts/${id}`,
    undefined,
    {
      headers: admin.auth,
    },
  );
const post = (h: Harness, admin: Person, path: string, body: unknown = {}) =>
  h.request<{ state: string } & Problem>("POST", path, body, { headers: admin.auth });

/** The host said hello with a version, and acknowledged its state after that. */
async function runs(h: Harness, hostId: Id<"hst">, version: string, results: t.ItemResult[] | null = []) {
  const [host] = await h.ports.db.read.select().from(t.hosts).where(eq(t.hosts.id, hostId));
  const hello = { t: "hello", hostId, epoch: (host?.epoch ?? 0) + 1, signature: "", version, bootId: "b" } as const;
  await joinHosts(systemOf(h), [{ ...hello, capabilities: [], applied: null }]);
  if (results === null) return;
  await h.ports.db.write((tx) =>
    tx.update(t.hosts).set({ appliedAt: h.clock.now(), appliedResults: results }).where(eq(t.hosts.id, hostId)),
  );
}

test("the canary alone, then a wait, then the others in batches, then done; each step in the audit", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet();
  const made = await start(h, admin, { soakS: 60, canaryHostIds: [hosts[2]] });
  expect([made.status, made.body.state, made.body.hosts]).toEqual([
    201,
    "canary",
    expect.objectContaining({ pending: 4 }),
  ]);
  await turn();
  expect(await states()).toEqual(["pending", "pending", "sent", "pending"]);
  fleet.otherwise = ok({ state: "committed" });
  await turn();
  expect(await states()).toEqual(["pending", "pending", "committed", "pending"]);
  expect((await read(h, admin, made.body.id)).body.state).toBe("waiting");
  h.clock.advance(59_999);
  await turn();
  expect(await states()).toEqual(["pending", "pending", "committed", "pending"]);
  fleet.otherwise = ok({ state: "trial", starts: 1 });
  h.clock.advance(1);
  await turn();
  await turn();
  expect(await states()).toEqual(["sent", "sent", "committed", "pending"]);
  fleet.otherwise = ok({ state: "committed" });
  await turn();
  await turn();
  expect([await states(), (await read(h, admin, made.body.id)).body.state]).toEqual([
    Array(4).fill("committed"),
    "done",
  ]);
  const audit = await h.ports.db.read.select().from(t.auditLog).where(eq(t.auditLog.subject, made.body.id));
  const count = (action: string) => audit.filter((row) => row.action === action).length;
  expect(["create", "sent", "committed", "waiting", "rolling", "done"].map((name) => count(`rollout.${name}`))).toEqual(
    [1, 4, 4, 1, 1, 1],
  );
});

test.each<[string, TaskOutcome, string]>([
  ["came back", ok({ state: "returned", reason: "it crashed", lastWords: "boom" }), "returned"],
  ["refused", failed("bad_signature"), "failed"],
  ["does not know the task", failed("unknown_kind"), "failed"],
  ["answers nonsense", { ok: true, result: { state: "elsewhere" } }, "failed"],
])(
  "a host that %s halts the rollout at once: nothing more is sent until an operator says so",
  async (_, answer, state) => {
    const { h, fleet, admin, hosts, turn, states } = await makeFleet();
    const { body } = await start(h, admin);
    fleet.answers.set(hosts[0] ?? "", answer);
    for (let i = 0; i < 5; i++) await turn();
    expect(await states()).toEqual([state, "pending", "pending", "pending"]);
    expect(new Set(fleet.asked.map(({ hostId }) => hostId))).toEqual(new Set([hosts[0]]));
    expect((await read(h, admin, body.id)).body).toMatchObject({
      state: "halted",
      haltReason: expect.stringContaining(state),
    });
    const events = await h.ports.db.read
      .select()
      .from(t.hostEvents)
      .where(eq(t.hostEvents.hostId, hosts[0] ?? "hst_"));
    expect(events.map(({ kind }) => kind)).toEqual([`upgrade_${state}`]);

    // No canary has shown that the version works: the others are not given it.
    expect((await post(h, admin, `/rollouts/${body.id}/resume`, { retry: false })).body.code).toBe("conflict");
    fleet.answers.clear();
    fleet.otherwise = ok({ state: "committed" });
    const before = fleet.asked.at(-1)?.params.attempt;
    expect((await post(h, admin, `/rollouts/${body.id}/resume`, { retry: true })).body.state).toBe("canary");
    for (let i = 0; i < 5; i++) await turn();
    expect([await states(), (await read(h, admin, body.id)).body.state]).toEqual([Array(4).fill("committed"), "done"]);
    // Another attempt, or the host would say again how the first ended.
    expect(fleet.asked.at(-1)?.params.attempt).not.toBe(before);
  },
);

test("a link that breaks, a host that is busy: asked again under the same attempt until its time is up, which halts", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet();
  const { body } = await start(h, admin, { trialS: 60 });
  for (const code of ["link_lost", "busy", "deadline", "stopping"]) {
    fleet.otherwise = failed(code);
    await turn();
  }
  expect(await states()).toEqual(["sent", "pending", "pending", "pending"]);
  expect(new Set(fleet.asked.map(({ params }) => params.attempt)).size).toBe(1);
  h.clock.advance(15 * 60_000 + 59_999);
  await turn();
  expect((await read(h, admin, body.id)).body.state).toBe("canary");
  h.clock.advance(10_000);
  await turn();
  expect([(await states())[0], (await read(h, admin, body.id)).body.state]).toEqual(["failed", "halted"]);
  // Its answer comes late: the end that was written stays.
  await settleHost(systemOf(h), (await parts(h, hosts[0]))[0] as never, ok({ state: "committed" }));
  expect((await states())[0]).toBe("failed");
});

const parts = (h: Harness, hostId: string | undefined) =>
  h.ports.db.read
    .select()
    .from(t.rolloutHosts)
    .where(eq(t.rolloutHosts.hostId, (hostId ?? "") as Id<"hst">));

test("the commit is asked for only when the new version has joined and acknowledged with nothing new failing", async () => {
  const { h, fleet, admin, hosts, turn } = await makeFleet({ exit: 1 });
  const [host = "hst_" as Id<"hst">] = hosts;
  const item = (ok: boolean) => [{ item: "was broken before", ok }];
  await runs(h, host, "1.0.0", item(false));
  await start(h, admin);
  const asks = async () => {
    await turn();
    return fleet.asked.at(-1)?.params.commit;
  };
  expect(await asks()).toBe(false);
  h.clock.advance(1000);
  await runs(h, host, NEXT, null);
  expect(await asks()).toBe(false); // joined, not acknowledged
  await runs(h, host, NEXT, [...item(false), { item: "broken now", ok: false }]);
  expect(await asks()).toBe(false);
  await runs(h, host, "1.0.0");
  expect(await asks()).toBe(false); // the version before, in sync
  await runs(h, host, NEXT, item(false));
  expect(await asks()).toBe(true);
});

test("two processes at once, each with both hosts linked: no host is sent to twice, and no batch is exceeded", async () => {
  const { h, admin, states } = await makeFleet({ exit: 8 });
  await start(h, admin, { batch: 3, canaryHostIds: undefined });
  await Promise.all(Array.from({ length: 6 }, () => claimHosts(systemOf(h))));
  const count = async (state: string) => (await states()).filter((one) => one === state).length;
  expect(await count("sent")).toBe(1); // the canary of the one role
  const [first] = await h.ports.db.read.select().from(t.rolloutHosts).where(eq(t.rolloutHosts.state, "sent"));
  if (first === undefined) throw new Error("none was sent");
  // Heard of by everyone, settled once.
  await Promise.all(Array.from({ length: 6 }, () => settleHost(systemOf(h), first, ok({ state: "committed" }))));
  const events = await h.ports.db.read.select().from(t.hostEvents).where(eq(t.hostEvents.hostId, first.hostId));
  expect(events).toHaveLength(1);
  await Promise.all([
    ...Array.from({ length: 6 }, () => claimHosts(systemOf(h))),
    stepRollout(systemOf(h), first.rolloutId),
  ]);
  expect([await count("committed"), await count("sent")]).toEqual([1, 3]);
  const sent = await h.ports.db.read
    .select()
    .from(t.auditLog)
    .where(and(eq(t.auditLog.subject, first.rolloutId), eq(t.auditLog.action, "rollout.sent")));
  expect(sent).toHaveLength(4);
});

test("a process that dies after it sent, or before it heard: another asks the same host the same, and it comes to its end", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet({ exit: 1 });
  await start(h, admin);
  // Taken, and the process died before a word went out.
  await claimHosts(systemOf(h));
  expect([await states(), fleet.asked]).toEqual([["sent"], []]);
  await turn();
  const other = rolloutDriver(h.ports);
  fleet.otherwise = ok({ state: "committed" });
  await other.turn();
  await expect.poll(states).toEqual(["committed"]);
  expect(new Set(fleet.asked.map(({ params }) => params.attempt)).size).toBe(1);
  expect((await parts(h, hosts[0]))[0]?.state).toBe("committed");
});

test("one canary of each role, online ones first; hosts that are away get their turn when they are back", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet({ forward: 2, exit: 2 });
  const [f1 = "", f2, e1, e2] = hosts;
  await h.ports.db.write((tx) =>
    tx
      .update(t.hosts)
      .set({ state: "offline" })
      .where(eq(t.hosts.id, f1 as Id<"hst">)),
  );
  fleet.linked.delete(f1);
  const { body } = await start(h, admin, { batch: 10 });
  const canaries = await h.ports.db.read.select().from(t.rolloutHosts).where(eq(t.rolloutHosts.canary, true));
  expect(canaries.map(({ hostId }) => hostId).sort()).toEqual([f2, e1].sort());
  fleet.otherwise = ok({ state: "committed" });
  for (let i = 0; i < 4; i++) await turn();
  expect([await states(), (await read(h, admin, body.id)).body.state]).toEqual([
    ["pending", "committed", "committed", "committed"],
    "rolling",
  ]);
  expect(e2).toBeDefined();
  await hostsUp(h);
  fleet.linked.add(f1);
  for (let i = 0; i < 2; i++) await turn();
  expect([(await states())[0], (await read(h, admin, body.id)).body.state]).toEqual(["committed", "done"]);
});

test("a host linked to another process is left to that one", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet({ exit: 2 });
  await start(h, admin, { canaryHostIds: hosts });
  fleet.linked.delete(hosts[0] ?? "");
  await turn();
  expect([await states(), new Set(fleet.asked.map(({ hostId }) => hostId))]).toEqual([
    ["pending", "sent"],
    new Set([hosts[1]]),
  ]);
});

test("cancelled: what has not begun does not begin, what is under way comes to its end, and the hosts are free for another", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet();
  const { body } = await start(h, admin);
  await turn();
  expect((await start(h, admin)).body).toMatchObject({ code: "conflict" });
  expect((await post(h, admin, `/rollouts/${body.id}/cancel`)).body.state).toBe("cancelled");
  expect(await states()).toEqual(["sent", "skipped", "skipped", "skipped"]);
  expect((await post(h, admin, `/rollouts/${body.id}/cancel`)).body.code).toBe("conflict");
  expect((await post(h, admin, `/rollouts/${body.id}/resume`)).body.code).toBe("conflict");
  fleet.otherwise = ok({ state: "returned", reason: "no", lastWords: "" });
  await turn();
  expect((await states())[0]).toBe("returned");
  expect((await read(h, admin, body.id)).body.state).toBe("cancelled");
  expect((await start(h, admin, { target: { hostIds: [hosts[1]] } })).status).toBe(201);
});

test("a host that is retired meanwhile is left out, and the rollout ends without it", async () => {
  const { h, fleet, admin, hosts, turn, states } = await makeFleet({ exit: 2 });
  const { body } = await start(h, admin);
  fleet.otherwise = ok({ state: "committed" });
  await h.ports.db.write((tx) =>
    tx
      .update(t.hosts)
      .set({ state: "retired" })
      .where(eq(t.hosts.id, hosts[1] ?? "hst_")),
  );
  h.clock.advance(20_000);
  for (let i = 0; i < 3; i++) await turn();
  expect([await states(), (await read(h, admin, body.id)).body.state]).toEqual([["committed", "skipped"], "done"]);
});

test("what can't be is refused with a code, and nothing is begun", async () => {
  const { h, admin, hosts } = await makeFleet({ forward: 1, exit: 1 });
  const [forward, exit] = hosts;
  const codes: [Record<string, unknown>, string][] = [
    [{ version: "7.7.7" }, "not_found"],
    [{ version: "1.2.0" }, "conflict"], // not signed
    [{ version: "1.3.0" }, "conflict"], // by another key
    [{ version: "1.0.0" }, "conflict"], // what they have
    [{ version: "0.9.0" }, "conflict"], // older, and not meant
    [{ target: { hostIds: ["hst_00000000000000000000000001"] } }, "not_found"],
    [{ target: { hostIds: [forward], role: "exit" } }, "not_found"],
    [{ target: { regionId: "nowhere" } }, "conflict"],
    [{ target: { hostIds: [exit] }, canaryHostIds: [forward] }, "conflict"],
    [{ version: "../1.1.0" }, "validation_failed"],
  ];
  for (const [body, code] of codes) expect([body, (await start(h, admin, body)).body]).toMatchObject([body, { code }]);
  expect(await h.ports.db.read.select().from(t.rollouts)).toEqual([]);
  const older = await start(h, admin, { version: "0.9.0", older: true, target: { role: "exit" } });
  expect([older.status, older.body.hosts.pending]).toEqual([201, 1]);
  const listed = await h.request<{ items: unknown[] }>("GET", "/releases", undefined, { headers: admin.auth });
  expect(listed.body.items).toContainEqual({ version: "1.2.0", signed: false });
  const hostsOf = await h.request<{ items: { hostId: string }[] }>(
    "GET",
    `/rollouts/${older.body.id}/hosts`,
    undefined,
    {
      headers: admin.auth,
    },
  );
  expect(hostsOf.body.items).toMatchObject([{ hostId: exit, state: "pending", canary: true }]);
});
