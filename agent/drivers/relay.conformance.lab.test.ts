import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Namespace, NetLab } from "../../scripts/lab/netns.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { exec as machineExec } from "../../scripts/lab/process.ts";
import type { RelayItem } from "../../shared/protocol/desired-state.ts";
import { createExec, type Exec } from "../exec.ts";
import type { AnyDriver } from "../reconcile.ts";
import { AgentInNamespace } from "../testing/lab-agent.ts";
import { RelayNftDriver } from "./relay-nft.ts";
import { RELAY_TABLE } from "./relay-plan.ts";
import { RelaySocatDriver } from "./relay-socat.ts";
import { DetachedServices } from "./services-detached.ts";
import { startEcho, UdpFlow } from "./testing/flow.ts";
import { memoryStore, pass, settle } from "./testing/pass.ts";

/** What every way to relay must do. Both drivers always run together, as in the agent; the item says whose it is. */
const [A, B] = ["10.2.0.2", "10.3.0.2"];
const HOST = "10.1.0.1";
let lab: NetLab;
let host: Namespace;
let client: Namespace;
let targetA: Namespace;
let exec: Exec;
let store = memoryStore();
let agent: AgentInNamespace;
let drivers: AnyDriver[];
let rev = 0;
const flows: UdpFlow[] = [];

beforeAll(async () => {
  lab = await NetLab.open("relay conformance");
  host = await lab.namespace("relay");
  client = await lab.namespace("client");
  const b = await lab.namespace("b");
  targetA = await lab.namespace("a");
  const a = targetA;
  await lab.link({ ns: host, name: "vc", address: `${HOST}/24` }, { ns: client, name: "eth0", address: "10.1.0.2/24" });
  await lab.link({ ns: host, name: "va", address: "10.2.0.1/24" }, { ns: a, name: "eth0", address: `${A}/24` });
  await lab.link({ ns: host, name: "vb", address: "10.3.0.1/24" }, { ns: b, name: "eth0", address: `${B}/24` });
  // The targets know no way back to the client: only what comes from the relay itself can be answered.
  for (const [ns, tag] of [
    [a, "A"],
    [b, "B"],
  ] as const)
    for (const port of [5000, 40_000]) await startEcho(ns, port, tag);
  exec = createExec({ prefix: host.argv([]) });
  agent = await AgentInNamespace.create(host, "forward");
});
afterAll(() => lab?.close());
afterEach(async () => {
  await Promise.all(flows.splice(0).map((flow) => flow.stop()));
  await agent.kill("SIGKILL");
  fresh();
  await settle(drivers, []);
  await host.exec(["nft", "flush", "ruleset"]);
  await host.exec(["conntrack", "-F"]);
});

/** Drivers as a restarted agent has them: they know only what is on disk and in the kernel. */
function fresh(): void {
  drivers = [new RelayNftDriver(exec, store), new RelaySocatDriver(exec, new DetachedServices(exec, servicesDir()))];
}
const servicesDir = () => `${agent.stateDir}/services`;

function flow(port: number): UdpFlow {
  const one = new UdpFlow(client, HOST, port);
  flows.push(one);
  return one;
}

/** Pids of socat in the relay host, but for the one that carries the control plane's link. */
async function socats(): Promise<string[]> {
  const { stdout } = await machineExec(["ip", "netns", "pids", host.fullName]);
  const { stdout: list } = await machineExec(["ps", "-o", "pid=,args=", "-p", stdout.trim().split("\n").join(",")]);
  return list.split("\n").flatMap((line) => (line.includes("socat -T") ? [line.trim().split(" ")[0] ?? ""] : []));
}

async function held(): Promise<string> {
  const { stdout } = await host.exec(["nft", "-a", "-s", "list", "ruleset"]);
  return `${stdout}${(await socats()).join(" ")}`;
}

describe.each(["nft", "socat"] as const)("a relay by %s", (driver) => {
  const relay = (listen: number, address: string, port: number | "same" = 5000): RelayItem => {
    const to = { address, port };
    return { type: "relay", id: `r${listen}`, listen: { from: listen, to: listen }, to, driver };
  };
  const begin = async (...items: RelayItem[]) => {
    store = memoryStore();
    fresh();
    await settle(drivers, items);
  };
  const want = async (items: RelayItem[]) => {
    agent.plane.want(++rev, items);
    const { results } = await agent.acked(rev);
    expect(results.filter((r) => !r.ok)).toEqual([]);
  };

  test("takes a client's packets to the target and the answers back, to the same port or another", async () => {
    await begin(relay(40_000, A, "same"), relay(40_001, B, 5000));
    expect(new Set(await flow(40_000).next())).toEqual(new Set(["A"]));
    expect(new Set(await flow(40_001).next())).toEqual(new Set(["B"]));
  });

  test("a changed target takes the running flow along at once, and nobody else notices", async () => {
    await begin(relay(40_000, A), relay(40_001, A), relay(40_002, B));
    const [moved, one, two] = [flow(40_000), flow(40_001), flow(40_002)];
    await Promise.all([moved.next(), one.next(), two.next()]);
    await settle(drivers, [relay(40_000, B), relay(40_001, A), relay(40_002, B)]);
    expect(new Set(await moved.next(20))).toEqual(new Set(["B"]));
    await settle(drivers, [relay(40_000, B, 40_000), relay(40_001, A), relay(40_002, B)]);
    expect(new Set(await moved.next(20))).toEqual(new Set(["B"]));
    await Promise.all([one.next(), two.next()]);
    expect([one.lost(), two.lost()]).toEqual([0, 0]);
  });

  test("a deleted relay stops at once, although the client never pauses, and nobody else notices", async () => {
    await begin(relay(40_000, A), relay(40_001, A));
    const [closed, kept] = [flow(40_000), flow(40_001)];
    await Promise.all([closed.next(), kept.next()]);
    await settle(drivers, [relay(40_001, A)]);
    const then = closed.count;
    await kept.next(25);
    expect(closed.count - then).toBeLessThanOrEqual(1);
    expect(kept.lost()).toBe(0);
  });

  test("an equal state changes nothing, also for drivers that have just started", async () => {
    const items = [relay(40_000, A), relay(40_001, B)];
    await begin(...items);
    const running = flow(40_000);
    await running.next();
    const before = await held();
    expect(await settle(drivers, items)).toEqual([]);
    fresh();
    expect(await settle(drivers, items)).toEqual([]);
    expect(await held()).toBe(before);
    await running.next();
    expect(running.lost()).toBe(0);
  });

  test("an agent killed and started again loses no packet", async () => {
    agent.start();
    await want([relay(40_000, A), relay(40_001, B)]);
    const running = flow(40_000);
    await running.next();
    const before = await held();
    for (let round = 0; round < 3; round++) {
      await agent.kill("SIGKILL");
      await running.next(10);
      agent.plane.frames.length = 0;
      agent.start();
      await agent.acked(rev);
    }
    expect(await held()).toBe(before);
    await running.next();
    expect(running.lost()).toBe(0);
    // And the agent still commands what it adopted.
    await want([relay(40_000, B), relay(40_001, B)]);
    expect(new Set(await running.next(10))).toEqual(new Set(["B"]));
  });

  test("what someone broke by hand is repaired within 30 s, and told", async () => {
    agent.start();
    await want([relay(40_000, A), relay(40_001, B)]);
    const running = flow(40_000);
    await running.next();
    if (driver === "nft") await host.exec(["nft", "flush", "table", "ip", RELAY_TABLE]);
    else for (const pid of await socats()) process.kill(Number(pid), "SIGKILL");
    await host.exec(["conntrack", "-F"]);
    await poll(() => agent.plane.frames.some((f) => f.t === "observe" && f.events.some(isRepair)), {
      what: "the repair",
      timeoutMs: 30_000,
    });
    expect(await running.next()).toContain("A");
    expect(await flow(40_001).next()).toContain("B");
  });

  test("a hundred and fifty relays come up, each to its own target, and one among them changes", async () => {
    const many = Array.from({ length: 150 }, (_, i) => relay(20_000 + i, i % 2 ? A : B));
    const before = performance.now();
    await begin(...many);
    const loaded = performance.now();
    const [one, other] = [flow(20_011), flow(20_148)];
    expect([await one.next(1), await other.next(1)]).toEqual([["A"], ["B"]]);
    const then = performance.now();
    expect(await settle(drivers, [...many.slice(0, 149), relay(20_149, B)])).toHaveLength(1);
    const changed = performance.now() - then;
    await one.next();
    expect(one.lost()).toBe(0);
    const ms = { load: Math.round(loaded - before), change: Math.round(changed) };
    process.stdout.write(`150 relays by ${driver}: ${JSON.stringify(ms)}\n`);
    expect(changed).toBeLessThan(2000);
  });

  test("a dead target disturbs nobody, and its relay works when it is back", async () => {
    await begin(relay(40_000, A, 6000), relay(40_001, A));
    const [dead, alive] = [flow(40_000), flow(40_001)];
    await alive.next(50);
    expect(dead.count).toBe(0);

    const late = await startEcho(targetA, 6000, "A");
    expect(await dead.next()).toContain("A");
    await alive.next();
    expect(alive.lost()).toBe(0);
    late.kill("SIGKILL");
  });

  test("a relay goes over to the other driver with its running flow, and back", async () => {
    await begin(relay(40_000, A), relay(40_001, A));
    const [moved, kept] = [flow(40_000), flow(40_001)];
    await Promise.all([moved.next(), kept.next()]);
    const other = driver === "nft" ? "socat" : "nft";
    await settle(drivers, [{ ...relay(40_000, B), driver: other }, relay(40_001, A)]);
    expect(new Set(await moved.next(20))).toEqual(new Set(["B"]));
    await settle(drivers, [relay(40_000, A), relay(40_001, A)]);
    expect(new Set(await moved.next(20))).toEqual(new Set(["A"]));
    await kept.next();
    // An answer that came late, after its request was given up, counts as one less than none.
    expect(kept.lost()).toBeLessThanOrEqual(0);
  });

  test("two items for one port: the first is had, the second is refused by name", async () => {
    await begin(relay(40_000, A));
    const { errors } = await pass(drivers, [relay(40_000, A), { ...relay(40_000, B), id: "twice" }]);
    expect([...errors]).toEqual([["twice", "port_overlap: 40000-40000 overlaps with r40000"]]);
    expect(new Set(await flow(40_000).next())).toEqual(new Set(["A"]));
  });
});

const isRepair = (event: { kind: string; item?: string | undefined }) =>
  event.kind === "drift_repaired" && event.item === "r40000";
