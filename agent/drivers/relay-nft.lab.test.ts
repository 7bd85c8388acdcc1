import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Namespace, NetLab } from "../../scripts/lab/netns.ts";
import { poll } from "../../scripts/lab/poll.ts";
import type { RelayItem } from "../../shared/protocol/desired-state.ts";
import { createExec, type Exec } from "../exec.ts";
import { listFlows } from "./conntrack.ts";
import { RelayNftDriver } from "./relay-nft.ts";
import { RELAY_MAP, RELAY_MARK, RELAY_TABLE } from "./relay-plan.ts";
import { startEcho, UdpFlow } from "./testing/flow.ts";
import { memoryStore, settle } from "./testing/pass.ts";

const [A, B] = ["10.2.0.2", "10.3.0.2"];
const HOST = "10.1.0.1";
let lab: NetLab;
let host: Namespace;
let client: Namespace;
let b: Namespace;
let exec: Exec;
let store: ReturnType<typeof memoryStore>;
let driver: RelayNftDriver;
const flows: UdpFlow[] = [];

beforeAll(async () => {
  lab = await NetLab.open("relay driver test");
  host = await lab.namespace("relay");
  client = await lab.namespace("client");
  b = await lab.namespace("b");
  const a = await lab.namespace("a");
  await lab.link({ ns: host, name: "vc", address: `${HOST}/24` }, { ns: client, name: "eth0", address: "10.1.0.2/24" });
  await lab.link({ ns: host, name: "va", address: "10.2.0.1/24" }, { ns: a, name: "eth0", address: `${A}/24` });
  await lab.link({ ns: host, name: "vb", address: "10.3.0.1/24" }, { ns: b, name: "eth0", address: `${B}/24` });
  // The targets know no way back to the client: only masqueraded packets can be answered.
  for (const [ns, tag] of [
    [a, "A"],
    [b, "B"],
  ] as const)
    for (const port of [5000, 5001, 30_007]) await startEcho(ns, port, tag);
  exec = createExec({ prefix: host.argv([]) });
});
afterAll(() => lab?.close());
afterEach(async () => {
  await Promise.all(flows.splice(0).map((flow) => flow.stop()));
  await settle([driver], []);
  await host.exec(["conntrack", "-F"]);
});

function fresh(): RelayNftDriver {
  store = memoryStore();
  driver = new RelayNftDriver(exec, store);
  return driver;
}

function relay(listen: number, address: string, port: number | "same" = 5000, to = listen): RelayItem {
  return { type: "relay", id: `r${listen}`, listen: { from: listen, to }, to: { address, port }, driver: "nft" };
}

function flow(port: number): UdpFlow {
  const one = new UdpFlow(client, HOST, port);
  flows.push(one);
  return one;
}

const table = async () => (await host.exec(["nft", "-a", "-s", "list", "table", "ip", RELAY_TABLE])).stdout;

test("a closed connection stops at once, although the client never pauses", async () => {
  fresh();
  await settle([driver], [relay(40_000, A), relay(40_001, A)]);
  const [closed, kept] = [flow(40_000), flow(40_001)];
  await Promise.all([closed.next(), kept.next()]);
  await settle([driver], [relay(40_001, A)]);
  await closed.falls();
  expect(new Set(await kept.next(20))).toEqual(new Set(["A"]));
  expect(kept.lost()).toBe(0);
});

test("a changed mapping takes the running flow to its new target, and no other flow notices", async () => {
  fresh();
  await settle([driver], [relay(40_000, A), relay(40_001, A), relay(40_002, B)]);
  const [moved, one, two] = [flow(40_000), flow(40_001), flow(40_002)];
  await Promise.all([moved.next(), one.next(), two.next()]);
  await settle([driver], [relay(40_000, B), relay(40_001, A), relay(40_002, B)]);
  expect(new Set(await moved.next(10))).toEqual(new Set(["B"]));
  await settle([driver], [relay(40_000, B, 5001), relay(40_001, A), relay(40_002, B)]);
  expect(new Set(await moved.next(10))).toEqual(new Set(["B"]));
  const now = (await listFlows(exec, 40_000)).map((f) => `${f.from}:${f.fromPort}`);
  expect(now).toEqual([`${B}:5001`]);
  await Promise.all([one.next(), two.next()]);
  expect([one.lost(), two.lost()]).toEqual([0, 0]);
});

test("a flow that began before there was a mapping is taken up when the mapping comes", async () => {
  fresh();
  await settle([driver], [relay(40_001, A)]);
  const early = flow(40_000);
  const earlyInRange = flow(30_007);
  const before = async (port: number) => (await listFlows(exec, port)).length > 0;
  await poll(() => before(40_000), { what: "the flow" });
  await poll(() => before(30_007), { what: "the flow in the range" });
  await settle([driver], [relay(40_001, A), relay(40_000, A)]);
  expect(await early.next()).toContain("A");
  await settle([driver], [relay(40_001, A), relay(40_000, A), relay(30_000, B, "same", 30_199)]);
  expect(await earlyInRange.next()).toContain("B");
});

test("a range keeps the port, and moving it takes its running flows along", async () => {
  fresh();
  await settle([driver], [relay(30_000, A, "same", 30_199)]);
  const one = flow(30_007);
  expect(await one.next()).toContain("A");
  await settle([driver], [relay(30_000, B, "same", 30_199)]);
  expect(new Set(await one.next(10))).toEqual(new Set(["B"]));
  expect((await table()).match(/dport/g)).toHaveLength(2);
});

test("a new driver over an equal kernel changes nothing", async () => {
  fresh();
  const items = [relay(40_000, A), relay(30_000, B, "same", 30_199)];
  await settle([driver], items);
  const running = flow(40_000);
  await running.next();
  const before = await table();
  const again = new RelayNftDriver(exec, store);
  expect(await settle([again], items)).toEqual([]);
  expect(await table()).toBe(before);
  await running.next();
  expect(running.lost()).toBe(0);
});

test("a crash between the change and its clean-up leaves no flow on the old target", async () => {
  fresh();
  await settle([driver], [relay(40_000, A)]);
  const running = flow(40_000);
  await running.next();
  // What a crashed agent leaves: the map changed, the flows not yet.
  const set = `ip ${RELAY_TABLE} ${RELAY_MAP}`;
  const change = `delete element ${set} { 40000 }\nadd element ${set} { 40000 : ${B} . 5000 }\n`;
  await host.exec(["nft", "-f", "-"], { input: change });
  expect(new Set(await running.next())).toEqual(new Set(["A"]));
  driver = new RelayNftDriver(exec, store);
  await settle([driver], [relay(40_000, B)]);
  expect(new Set(await running.next(10))).toEqual(new Set(["B"]));
});

test("rules and elements edited by hand are repaired, and running flows don't notice", async () => {
  fresh();
  const items = [relay(40_000, A), relay(40_001, A), relay(30_000, B, "same", 30_199)];
  await settle([driver], items);
  const running = flow(40_000);
  await running.next();
  const edits = [
    ["delete", "element", "ip", RELAY_TABLE, RELAY_MAP, "{", "40001", "}"],
    ["add", "element", "ip", RELAY_TABLE, RELAY_MAP, "{", "40009", ":", B, ".", "5000", "}"],
    ["insert", "rule", "ip", RELAY_TABLE, "pre", "udp", "dport", "1-3", "drop"],
    ["flush", "chain", "ip", RELAY_TABLE, "post"],
  ];
  for (const edit of edits) {
    await host.exec(["nft", ...edit]);
    expect(await settle([driver], items)).toHaveLength(1);
    expect(await settle([driver], items)).toEqual([]);
  }
  // Each change of a range replaces the table, under the running flow.
  for (let to = 30_200; to < 30_210; to++)
    await settle([driver], [relay(40_000, A), relay(40_001, A), relay(30_000, B, "same", to)]);
  await running.next();
  expect(running.lost()).toBe(0);
  await host.exec(["nft", "delete", "table", "ip", RELAY_TABLE]);
  await settle([driver], items);
  expect(await running.next()).toContain("A");
});

test("what is not a relay is left alone: other ports of the host, and flows that only pass through", async () => {
  fresh();
  await settle([driver], [relay(40_000, A)]);
  await startEcho(host, 41_000, "H");
  expect(await flow(41_000).next()).toContain("H");
  expect((await listFlows(exec, 41_000)).map((f) => f.mark)).toEqual([0]);
  // Another host's port 40000, reached through us: not ours to translate.
  await client.route(`10.3.0.0/24 via ${HOST}`);
  await b.route("10.1.0.0/24 via 10.3.0.1");
  await startEcho(b, 40_000, "B");
  const through = new UdpFlow(client, B, 40_000);
  flows.push(through);
  expect(new Set(await through.next())).toEqual(new Set(["B"]));
});

test("relays that can't be had are refused by name, and the others work", async () => {
  fresh();
  const { pass } = await import("./testing/pass.ts");
  const { errors } = await pass([driver], [relay(40_000, A), { ...relay(40_000, B), id: "twice" }]);
  expect([...errors]).toEqual([["twice", "port_overlap: 40000-40000 overlaps with r40000"]]);
  expect(await flow(40_000).next()).toContain("A");
});

test("a flow that enters late, behind the first look after a change, is found by the next look at everything", async () => {
  fresh();
  await settle([driver], [relay(40_000, B)]);
  const items = [relay(40_000, A)];
  const stale = async (look: "all" | "changed") => (await driver.observe(items, look)).staleFlows.map((f) => f.from);
  for (const step of driver.plan(await driver.observe(items, "changed"), items).steps) await driver.apply(step);
  expect(await stale("changed")).toEqual([]);
  const sent = ["-s", "10.1.0.2", "-d", HOST, "--sport", "999", "--dport", "40000", "-m", String(RELAY_MARK)];
  const answered = ["-r", B, "-q", "10.1.0.2", "--reply-port-src", "5000", "--reply-port-dst", "999"];
  await host.exec(["conntrack", "-I", "-p", "udp", ...sent, ...answered, "-t", "100"]);
  expect(await stale("changed")).toEqual([]);
  expect(await stale("all")).toEqual([B]);
  await settle([driver], items);
  expect(await listFlows(exec, 40_000)).toEqual([]);
});

test("a change among a thousand mappings takes as few runs of tools as a change of one", async () => {
  const runs: string[] = [];
  const counted: Exec = {
    ...exec,
    run(argv, options) {
      runs.push(argv.slice(0, 2).join(" "));
      return exec.run(argv, options);
    },
  };
  const cost = async (mappings: number) => {
    store = memoryStore();
    // Time goes by from look to look, so that an earlier change is no longer in doubt.
    let now = 0;
    driver = new RelayNftDriver(counted, store, undefined, () => {
      now += 2000;
      return now;
    });
    const items = Array.from({ length: mappings }, (_, i) => relay(10_000 + i, A));
    await settle([driver], items);
    await settle([driver], items);
    runs.length = 0;
    await settle([driver], [relay(10_000, B), ...items.slice(1)]);
    const count = runs.length;
    await settle([driver], []);
    return count;
  };
  expect([await cost(1), await cost(1000)]).toEqual([4, 4]);
});
