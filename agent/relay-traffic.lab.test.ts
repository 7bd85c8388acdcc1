import { totalmem } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Namespace, NetLab } from "../scripts/lab/netns.ts";
import type { RelayItem, StateItem } from "../shared/protocol/desired-state.ts";
import { observationSchema } from "../shared/protocol/frames.ts";
import { LimitsDriver, limitsFor } from "./drivers/limits.ts";
import { RelayNftDriver } from "./drivers/relay-nft.ts";
import { RelaySocatDriver } from "./drivers/relay-socat.ts";
import { DetachedServices } from "./drivers/services-detached.ts";
import { startEcho } from "./drivers/testing/flow.ts";
import { memoryStore, settle } from "./drivers/testing/pass.ts";
import { createExec, type Exec } from "./exec.ts";
import { observeHost } from "./observe.ts";
import type { AnyDriver } from "./reconcile.ts";
import { RelayTraffic } from "./relay-traffic.ts";
import { type Traffic, TrafficBook } from "./traffic.ts";
import { TunnelCounts } from "./tunnel-counts.ts";

const [HOST, A] = ["10.1.0.1", "10.2.0.2"];
const BURST = join(import.meta.dirname, "drivers/testing/udp-burst.ts");
const log = { info() {}, warn() {}, error() {} };
let lab: NetLab;
let host: Namespace;
let client: Namespace;
let exec: Exec;
let kept: Traffic | null = null;
let traffic: RelayTraffic;
let drivers: AnyDriver[];
let store = memoryStore();

beforeAll(async () => {
  lab = await NetLab.open("relay traffic test");
  host = await lab.namespace("relay");
  client = await lab.namespace("client");
  const target = await lab.namespace("a");
  await lab.link({ ns: host, name: "vc", address: `${HOST}/24` }, { ns: client, name: "eth0", address: "10.1.0.2/24" });
  await lab.link({ ns: host, name: "va", address: "10.2.0.1/24" }, { ns: target, name: "eth0", address: `${A}/24` });
  for (const port of [5000, 5001]) await startEcho(target, port, "A");
  exec = createExec({ prefix: host.argv([]) });
});
afterAll(() => lab?.close());
beforeEach(() => {
  kept = null;
  store = memoryStore();
  start();
});

/** What a starting agent makes. */
function start(): void {
  const services = new DetachedServices(exec, join(host.dir, "services"));
  const book = new TrafficBook("boot", kept && structuredClone(kept), (next) => {
    kept = structuredClone(next);
  });
  traffic = new RelayTraffic(exec, services, book);
  drivers = [
    new LimitsDriver(exec, log),
    new RelayNftDriver(exec, store, (flow) => traffic.flowEnded(flow)),
    new RelaySocatDriver(exec, services, traffic),
  ];
}

describe.each(["nft", "socat"] as const)("bytes of relays by %s", (driver) => {
  const relay = (listen: number, port = 5000): RelayItem => {
    const to = { address: A, port };
    return { type: "relay", id: `r${listen}`, listen: { from: listen, to: listen }, to, driver };
  };
  const bytesOf = async (id: string, items: StateItem[]) =>
    (await traffic.look(items)).find((r) => r.item === id)?.bytes ?? 0;
  /** conntrack counts whole IP packets, socat's processes what they carry. */
  const header = driver === "nft" ? 28 : 0;
  /** Sends from a new source port; gives the bytes both ways. */
  const send = async (port: number, count: number): Promise<number> => {
    const { stdout } = await client.exec([process.execPath, BURST, HOST, String(port), "1", String(count)]);
    expect(stdout).toBe(`answers ${count} crossed 0\n`);
    let bytes = 0;
    for (let i = 0; i < count; i++) bytes += 2 * (`client0 ${i}`.length + header) + "A ".length;
    return bytes;
  };

  test("each byte of each flow counts once for its relay: over flows that end, a change, a restart and the end", async () => {
    const items = [relay(40_000), relay(40_001)];
    await settle(drivers, items);
    await traffic.look(items);
    let real = await send(40_000, 50);
    expect(await bytesOf("r40000", items)).toBe(real);
    real += await send(40_000, 30); // another flow
    expect(await bytesOf("r40000", items)).toBe(real);
    // Not looked at before its flow is ended by a change of target.
    real += await send(40_000, 20);
    const moved = [relay(40_000, 5001), relay(40_001)];
    await settle(drivers, moved);
    real += await send(40_000, 10);
    expect(await bytesOf("r40000", moved)).toBe(real);
    start();
    real += await send(40_000, 5);
    expect(await bytesOf("r40000", moved)).toBe(real);
    expect(await bytesOf("r40001", moved)).toBe(0);
    // And the last of it is told when the relay has gone.
    real += await send(40_000, 7);
    await settle(drivers, [relay(40_001)]);
    expect(await bytesOf("r40000", [relay(40_001)])).toBe(real);
    expect((await traffic.look([relay(40_001)])).map((r) => r.item)).toEqual(["r40001"]);
    await settle(drivers, []);
  });
});

test("the kernel's tables are sized as far as this namespace may, and the rest of the machine is not touched", async () => {
  const machine = createExec();
  const read = async (e: Exec, name: string) => Number((await e.run(["sysctl", "-n", name])).stdout);
  const global = ["net.netfilter.nf_conntrack_max", "net.core.rmem_max", "net.netfilter.nf_conntrack_udp_timeout"];
  const before = await Promise.all(global.map((name) => read(machine, name)));
  const item: RelayItem = {
    type: "relay",
    id: "r",
    listen: { from: 1, to: 1 },
    to: { address: A, port: 1 },
    driver: "nft",
  };
  // Far above what there is: in a namespace the kernel lets nobody raise them.
  drivers[0] = new LimitsDriver(exec, log, limitsFor(totalmem() * 1000));
  await settle(drivers, [item]);
  expect(await read(exec, "net.netfilter.nf_conntrack_acct")).toBe(1);
  expect(await read(exec, "net.netfilter.nf_conntrack_udp_timeout")).toBe(60);
  expect(await read(exec, "net.netfilter.nf_conntrack_udp_timeout_stream")).toBe(180);
  expect(await Promise.all(global.map((name) => read(machine, name)))).toEqual(before);
  expect(await settle(drivers, [item])).toEqual([]);
  await settle(drivers, []);
});

test("datagrams a full socket buffer cost are seen, and the whole observation is one the protocol knows", async () => {
  // A server that never reads.
  host.spawn([
    process.execPath,
    "-e",
    "require('dgram').createSocket('udp4').bind(7000, () => { for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) })",
  ]);
  await expect.poll(async () => (await host.exec(["ss", "-Hunl", "sport = :7000"])).stdout).not.toBe("");
  const udp = async () => {
    const seen = await observeHost(
      {
        exec,
        log,
        traffic,
        counts: new TunnelCounts(
          null,
          () => {},
          () => "",
          Date.now,
        ),
      },
      [],
    );
    expect(observationSchema.parse(seen)).toEqual(seen);
    return seen.udp?.rcvbufErrors ?? -1;
  };
  const before = await udp();
  await client.exec([process.execPath, BURST, HOST, "7000", "1", "3000"]);
  expect(await udp()).toBeGreaterThan(before);
  await settle(drivers, []);
});
