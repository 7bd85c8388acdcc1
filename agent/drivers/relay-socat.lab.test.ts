import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Namespace, NetLab } from "../../scripts/lab/netns.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { stopChild } from "../../scripts/lab/process.ts";
import type { RelayItem } from "../../shared/protocol/desired-state.ts";
import { createExec, DATA_PATH_NICE, type Exec } from "../exec.ts";
import { argvOf, childrenOf, statOf } from "../proc.ts";
import { RelaySocatDriver } from "./relay-socat.ts";
import { DEFAULT_SOCAT, socatArgv } from "./relay-socat-plan.ts";
import { DetachedServices } from "./services-detached.ts";
import { startEcho, UdpFlow } from "./testing/flow.ts";
import { pass, settle } from "./testing/pass.ts";

/** What is socat's own: its processes, its strangers, its limits. What every relay must do is in relay.conformance. */
const HOST = "10.1.0.1";
const A = "10.2.0.2";
const BURST = join(import.meta.dirname, "testing/udp-burst.ts");
let lab: NetLab;
let host: Namespace;
let client: Namespace;
let target: Namespace;
let exec: Exec;
let driver: RelaySocatDriver;
const flows: UdpFlow[] = [];

beforeAll(async () => {
  lab = await NetLab.open("socat driver test");
  host = await lab.namespace("relay");
  client = await lab.namespace("client");
  target = await lab.namespace("a");
  await lab.link({ ns: host, name: "vc", address: `${HOST}/24` }, { ns: client, name: "eth0", address: "10.1.0.2/24" });
  await lab.link({ ns: host, name: "va", address: "10.2.0.1/24" }, { ns: target, name: "eth0", address: `${A}/24` });
  for (const port of [5000, 5001]) await startEcho(target, port, "A");
  exec = createExec({ prefix: host.argv([]) });
});
afterAll(() => lab?.close());
afterEach(async () => {
  await Promise.all(flows.splice(0).map((flow) => flow.stop()));
  fresh();
  await settle([driver], []);
});

const dir = () => join(host.dir, "services");
const record = (port: number) => join(dir(), `relay-${port}.json`);
const pidOf = (port: number): number => JSON.parse(readFileSync(record(port), "utf8")).pid;
function fresh(maxChildren = DEFAULT_SOCAT.maxChildren): void {
  driver = new RelaySocatDriver(exec, new DetachedServices(exec, dir()), undefined, {
    ...DEFAULT_SOCAT,
    maxChildren,
  });
}
function flow(port: number): UdpFlow {
  const one = new UdpFlow(client, HOST, port);
  flows.push(one);
  return one;
}
const relay = (listen: number, port = 5000, to = listen): RelayItem => {
  return { type: "relay", id: `r${listen}`, listen: { from: listen, to }, to: { address: A, port }, driver: "socat" };
};

test("a boarding range by socat is refused with the reason, and other relays work", async () => {
  fresh();
  const { errors } = await pass([driver], [relay(30_000, 5000, 30_199), relay(40_000)]);
  expect([...errors]).toEqual([["r30000", expect.stringMatching(/^range_by_socat: .*boarding range should be nft/)]]);
  expect(await flow(40_000).next()).toContain("A");
});

test("a stranger who holds the port is named and left alone, and the relay comes when the stranger has gone", async () => {
  fresh();
  // Both may hold the port, since both say reuseaddr: whoever binds last would get the packets.
  const stranger = host.spawn(["socat", "-u", "UDP4-RECV:40000,reuseaddr", "OPEN:/dev/null"]);
  const holds = async () => (await host.exec(["ss", "-Hunl", "sport = :40000"])).stdout !== "";
  await poll(holds, { what: "the stranger" });
  for (const _ of [1, 2]) {
    const { errors } = await pass([driver], [relay(40_000), relay(40_001)]);
    expect([...errors]).toEqual([
      ["r40000", `port_taken: UDP port 40000 is held by socat (pid ${stranger.pid}), which this agent did not start`],
    ]);
  }
  expect(stranger.exitCode).toBeNull();
  expect(await flow(40_001).next()).toContain("A");
  await stopChild(stranger, "SIGKILL");
  await settle([driver], [relay(40_000), relay(40_001)]);
  expect(await flow(40_000).next()).toContain("A");
});

test("a listener started by an agent that died before it could write it down is adopted, not doubled", async () => {
  fresh();
  await settle([driver], [relay(40_000)]);
  const running = flow(40_000);
  await running.next();
  const pid = pidOf(40_000);
  rmSync(record(40_000));
  fresh();
  expect(await settle([driver], [relay(40_000)])).toEqual([]);
  expect(pidOf(40_000)).toBe(pid);
  await settle([driver], []);
  await running.falls();
  expect(statOf(pid)).toBeUndefined();
});

test("a record that names another process by now harms neither that process nor the relay", async () => {
  fresh();
  await settle([driver], [relay(40_000)]);
  const innocent = host.spawn(["cat"], { stdin: "pipe" });
  const real = pidOf(40_000);
  const forge = () => writeFileSync(record(40_000), JSON.stringify({ pid: innocent.pid, startTime: "1" }));
  forge();
  fresh();
  expect(await settle([driver], [relay(40_000)])).toEqual([]);
  expect(pidOf(40_000)).toBe(real);
  process.kill(real, "SIGKILL");
  forge();
  expect(await settle([driver], [relay(40_000)])).toHaveLength(1);
  expect(argvOf(pidOf(40_000))).toEqual(socatArgv(40_000, { address: A, port: 5000 }, DEFAULT_SOCAT));
  expect(innocent.exitCode).toBeNull();
  expect(innocent.signalCode).toBeNull();
  await stopChild(innocent);
});

test("with its listener killed, a relay's left-over flows end with the change too", async () => {
  fresh();
  await settle([driver], [relay(40_000)]);
  const running = flow(40_000);
  await running.next();
  process.kill(pidOf(40_000), "SIGKILL");
  await running.next(); // the flow's own process goes on
  await settle([driver], []);
  // Answers that were on their way to this process may still be counted after it.
  await running.falls();
});

test("a dead target makes no storm of processes: all packets of a client go to the one its first made", async () => {
  fresh();
  await settle([driver], [relay(40_000, 6000)]);
  const dead = flow(40_000);
  const children = () => childrenOf(pidOf(40_000));
  await poll(() => children().length > 0, { what: "the flow's process" });
  const before = children();
  const { stdout } = await client.exec([process.execPath, BURST, HOST, "40000", "1", "1000"]);
  expect(stdout).toContain("answers 0");
  expect(children().slice(0, 1)).toEqual(before);
  // A packet that comes before the first child has its socket connected forks once more; a storm would be hundreds.
  expect(children().length).toBeLessThan(10);
  expect(dead.count).toBe(0);
});

test("a relay and the processes of its flows go ahead of whatever else the host does", async () => {
  fresh();
  await settle([driver], [relay(40_000)]);
  await flow(40_000).next();
  const pids = [pidOf(40_000), ...childrenOf(pidOf(40_000))];
  expect(pids.length).toBeGreaterThan(1);
  expect(pids.map((pid) => getPriority(pid))).toEqual(pids.map(() => DATA_PATH_NICE));
  // Sessions that the kernel weighs as groups: niceness alone would count within the relay's own.
  const groups = pids.map((pid) => `/proc/${pid}/autogroup`).filter((file) => existsSync(file));
  for (const file of groups) expect(readFileSync(file, "utf8")).toMatch(/ nice -10$/m);
});

test("one port has so many flows at most, and the others wait without disturbing those there are", async () => {
  fresh(2);
  await settle([driver], [relay(40_000)]);
  const one = flow(40_000);
  await one.next();
  const two = flow(40_000);
  await two.next();
  const third = flow(40_000);
  await Promise.all([one.next(20), two.next(20)]);
  expect(third.count).toBe(0);
  expect(childrenOf(pidOf(40_000))).toHaveLength(2);
  // A full listener has no socket open; it still counts as what it should be.
  expect(await settle([driver], [relay(40_000)])).toEqual([]);
  expect([one.lost(), two.lost()]).toEqual([0, 0]);
});

test("socat's limit, stated: clients that begin in one burst on one port get each other's answers; one alone never", async () => {
  fresh();
  await settle([driver], [relay(40_000), relay(40_001)]);
  const burst = async (port: number, clients: number) =>
    (await client.exec([process.execPath, BURST, HOST, String(port), String(clients), "1"])).stdout;
  const many = await burst(40_000, 60);
  const one = await burst(40_001, 1);
  process.stdout.write(`60 clients in one burst on one socat port: ${many}`);
  expect(Number(/crossed (\d+)/.exec(many)?.[1])).toBeGreaterThan(0);
  expect(one).toBe("answers 1 crossed 0\n");
});
