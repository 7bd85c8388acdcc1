import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Namespace, NetLab } from "../../scripts/lab/netns.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { stopChild } from "../../scripts/lab/process.ts";
import type { StateItem, WhitelistItem, WireguardItem } from "../../shared/protocol/desired-state.ts";
import { createExec, type Exec } from "../exec.ts";
import { makeKeys } from "../keys.ts";
import { memoryStore, settle } from "./testing/pass.ts";
import { WhitelistDriver } from "./whitelist.ts";
import { WireguardDriver } from "./wireguard.ts";

const EXIT = "203.0.113.2";
const LISTED = "203.0.113.1";
const OTHER = "198.51.100.10";
const TICKS = join(import.meta.dirname, "testing/tcp-ticks.ts");
const keys = makeKeys("exit");
const clientKeys = makeKeys("exit");
const publicKey = clientKeys.wireguard?.publicKey ?? "";
let lab: NetLab;
let exit: Namespace;
let inet: Namespace;
let client: Namespace;
let exec: Exec;
let keyFile: string;
let store: ReturnType<typeof memoryStore>;
let drivers: [WhitelistDriver, WireguardDriver];

const wireguard = (more: Partial<WireguardItem> = {}): WireguardItem => ({
  type: "wireguard",
  id: "wg",
  interface: "tl0",
  listenPort: 51820,
  address: "10.13.13.1/24",
  mtu: 1392,
  peers: [{ publicKey, allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter: null }],
  ...more,
});
const whitelist = (cidrs: string[], more: Partial<WhitelistItem> = {}): WhitelistItem => ({
  type: "whitelist",
  id: "wl",
  interface: "tl0",
  cidrs,
  domains: [],
  outInterface: null,
  ...more,
});
const basic = (): StateItem[] => [wireguard(), whitelist([`${LISTED}/32`, "10.0.0.0/8"])];

function fresh(): void {
  const deps = { exec, store, keyFile, publicKey: keys.wireguard?.publicKey ?? null, systemd: false };
  drivers = [new WhitelistDriver(exec, store), new WireguardDriver(deps)];
}

beforeAll(async () => {
  lab = await NetLab.open("exit drivers test");
  exit = await lab.namespace("exit");
  inet = await lab.namespace("inet");
  client = await lab.namespace("client");
  await lab.link({ ns: exit, name: "eth0", address: `${EXIT}/24` }, { ns: inet, name: "x", address: `${LISTED}/24` });
  await lab.link(
    { ns: exit, name: "in0", address: "10.1.0.1/24" },
    { ns: client, name: "eth0", address: "10.1.0.2/24" },
  );
  await inet.ip(`addr add ${OTHER}/32 dev lo`);
  await exit.route(`default via ${LISTED}`);
  exec = createExec({ prefix: exit.argv([]) });
  keyFile = join(exit.dir, "wireguard.key");
  writeFileSync(keyFile, `${keys.wireguard?.privateKey}\n`, { mode: 0o600 });
  const server = inet.spawn([process.execPath, TICKS, "serve", "80"]);
  if (server.stdout) await once(server.stdout, "data");
  // The client of a customer, by the tools a customer has.
  client.spawn(["wireguard-go", "-f", "wg0"]);
  await poll(() => client.exists("/run/wireguard/wg0.sock"), { what: "the client's tunnel" });
  const file = join(client.dir, "key");
  writeFileSync(file, `${clientKeys.wireguard?.privateKey}\n`, { mode: 0o600 });
  await client.exec(["wg", "set", "wg0", "private-key", file]);
  await client.ip("addr add 10.13.13.2/32 dev wg0", "link set wg0 mtu 1392 up", "route replace default dev wg0");
  store = memoryStore();
});
afterAll(() => lab?.close());
beforeEach(async () => {
  fresh();
  await newSession();
});

/** A session the exit forgot would otherwise be tried for 15 s before the client shakes hands again. */
async function newSession(): Promise<void> {
  const peer = ["peer", keys.wireguard?.publicKey ?? ""];
  await client.exec(["wg", "set", "wg0", ...peer, "remove"]);
  await client.exec(["wg", "set", "wg0", ...peer, "endpoint", "10.1.0.1:51820", "allowed-ips", "0.0.0.0/0"]);
}

const table = async () => (await exit.exec(["nft", "-a", "-s", "list", "table", "ip", "trunkline_exit"])).stdout;
const dump = async () => (await exit.exec(["wg", "show", "tl0", "dump"])).stdout;
const pings = async (address: string) =>
  (await client.exec(["ping", "-n", "-c", "1", "-W", "1", address], { check: false })).code === 0;
const denied = async () => {
  const { stdout } = await exit.exec(["nft", "list", "counter", "ip", "trunkline_exit", "denied_tl0"]);
  return Number(/packets (\d+)/.exec(stdout)?.[1]);
};

/** A running TCP flow of the client, by the lines it receives. */
class Ticks {
  readonly child: ChildProcess;
  lines = 0;
  text = "";
  constructor(address: string) {
    this.child = client.spawn([process.execPath, TICKS, "listen", address, "80"]);
    this.child.stdout?.on("data", (chunk: Buffer) => {
      this.text = (this.text + chunk).slice(-200);
      this.lines += String(chunk).split("\n").length - 1;
    });
  }
  async more(count = 5): Promise<void> {
    const from = this.lines;
    await poll(() => this.lines >= from + count, { what: "more ticks", timeoutMs: 5000 });
  }
  stop = () => stopChild(this.child, "SIGKILL");
}

test("the tunnel comes up in a fresh namespace, and only what is listed passes", async () => {
  const changed = await settle(drivers, basic());
  expect(changed).toEqual(["exit table is missing", "IPv4 forwarding is off", "tunnel tl0 is missing"]);
  expect(await pings(LISTED)).toBe(true);
  const before = await denied();
  expect(await pings(OTHER)).toBe(false);
  // The host's own networks stay out of reach even where a list names them.
  expect(await pings("10.5.5.5")).toBe(false);
  expect(await denied()).toBeGreaterThan(before + 1);
  const flow = new Ticks(LISTED);
  await flow.more();
  const refused = new Ticks(OTHER);
  await poll(() => refused.text.includes("refused"), { what: "the refusal" });
  expect(refused.text).toMatch(/EHOSTUNREACH|ECONNREFUSED|EACCES/);
  await Promise.all([flow.stop(), refused.stop()]);
});

test("the host itself answers a ping from the tunnel and nothing else", async () => {
  await settle(drivers, basic());
  exit.spawn([process.execPath, TICKS, "serve", "8022"]);
  await poll(async () => (await exit.exec(["ss", "-Hltn", "sport = :8022"])).stdout !== "", { what: "a server" });
  expect(await pings("10.13.13.1")).toBe(true);
  for (const address of ["10.13.13.1", EXIT]) {
    const { code } = await client.exec(["curl", "-m", "2", "-s", `http://${address}:8022/`], { check: false });
    expect(code).toBe(7);
  }
});

test("a removed entry ends a running flow at once, in both directions, and leaves the others running", async () => {
  await settle(drivers, [wireguard(), whitelist([`${LISTED}/32`, `${OTHER}/32`])]);
  const [kept, cut] = [new Ticks(LISTED), new Ticks(OTHER)];
  await Promise.all([kept.more(), cut.more()]);
  await settle(drivers, [wireguard(), whitelist([`${LISTED}/32`])]);
  const then = cut.lines;
  await kept.more(25);
  expect(cut.lines - then).toBeLessThan(3);
  await Promise.all([kept.stop(), cut.stop()]);
});

test("a new driver over an equal kernel changes nothing", async () => {
  const items = [wireguard(), whitelist(["203.0.113.0/25", "203.0.113.128/25", "198.51.100.10/32"])];
  await settle(drivers, items);
  // Without the counters and handshakes, which the running session moves.
  const tunnel = async () => (await dump()).replaceAll(/\t\d+\t\d+\t\d+\t(off|\d+)$/gm, "\t$1");
  const before = [await table(), await tunnel()];
  fresh();
  expect(await settle(drivers, items)).toEqual([]);
  expect([await table(), await tunnel()]).toEqual(before);
});

test("5,000 networks load, and one of them goes, in a transaction each", async () => {
  await settle(drivers, basic());
  const cidrs = Array.from({ length: 5000 }, (_, i) => `${20 + (i >> 10)}.${(i >> 2) & 255}.${(i & 3) * 64}.0/28`);
  const runs: string[] = [];
  const counted: Exec = {
    ...exec,
    run(argv, options) {
      runs.push(argv.slice(0, argv[1] === "-c" ? 3 : 2).join(" "));
      return exec.run(argv, options);
    },
  };
  const driver = new WhitelistDriver(counted, store);
  const before = performance.now();
  await settle([driver], [wireguard(), whitelist(cidrs)]);
  const loaded = performance.now();
  await settle([driver], [wireguard(), whitelist(cidrs.slice(1))]);
  const changed = performance.now();
  const change = ["nft -s", "nft -c -f", "nft -f", "nft -s"];
  expect(runs).toEqual([...change, ...change]);
  process.stdout.write(
    `5,000 networks: ${Math.round(loaded - before)} ms, one less: ${Math.round(changed - loaded)} ms\n`,
  );
});

test("what was edited by hand is repaired: rules, entries, peers, addresses, MTU", async () => {
  await settle(drivers, basic());
  const other = makeKeys("exit").wireguard?.publicKey ?? "";
  const edits = [
    ["nft", "insert", "rule", "ip", "trunkline_exit", "forward", "accept"],
    ["nft", "add", "element", "ip", "trunkline_exit", "wl4_tl0", "{", "8.8.8.8", "}"],
    ["nft", "flush", "set", "ip", "trunkline_exit", "never4"],
    ["nft", "delete", "table", "ip", "trunkline_exit"],
    ["wg", "set", "tl0", "peer", publicKey, "remove"],
    ["wg", "set", "tl0", "peer", publicKey, "persistent-keepalive", "5"],
    ["wg", "set", "tl0", "peer", publicKey, "allowed-ips", "10.13.13.0/24"],
    ["wg", "set", "tl0", "peer", other, "allowed-ips", "10.13.13.9/32"],
    ["wg", "set", "tl0", "listen-port", "51999"],
    ["wg", "set", "tl0", "peer", publicKey, "preshared-key", keyFile],
    ["wg", "set", "tl0", "private-key", join(client.dir, "other.key")],
    ["ip", "addr", "add", "10.99.0.1/24", "dev", "tl0"],
    ["ip", "link", "set", "tl0", "mtu", "1300"],
    ["ip", "link", "set", "tl0", "down"],
    ["sysctl", "-q", "-w", "net.ipv4.ip_forward=0"],
  ];
  writeFileSync(join(exit.dir, "other.key"), `${makeKeys("exit").wireguard?.privateKey}\n`);
  for (const edit of edits) {
    await exit.exec(edit.map((arg) => arg.replace(client.dir, exit.dir)));
    expect([edit.join(" "), (await settle(drivers, basic())).length]).toEqual([edit.join(" "), 1]);
    expect([edit.join(" "), await settle(drivers, basic())]).toEqual([edit.join(" "), []]);
  }
  await newSession();
  expect(await pings(LISTED)).toBe(true);
});

test("a peer is replaced in one command and another's session goes on", async () => {
  const spare = makeKeys("exit").wireguard?.publicKey ?? "";
  const peer = (key: string, ip: string) => ({ publicKey: key, allowedIps: [ip], keepalive: 0, notAfter: null });
  const running = peer(publicKey, "10.13.13.2/32");
  await settle(drivers, [wireguard({ peers: [running, peer(spare, "10.13.13.3/32")] }), whitelist([`${LISTED}/32`])]);
  const flow = new Ticks(LISTED);
  await flow.more();
  const next = makeKeys("exit").wireguard?.publicKey ?? "";
  const items = [wireguard({ peers: [running, peer(next, "10.13.13.3/32")] }), whitelist([`${LISTED}/32`])];
  expect(await settle(drivers, items)).toHaveLength(1);
  await flow.more(20);
  expect(await dump()).not.toContain(spare);
  expect(await dump()).toContain(next);
  await flow.stop();
});

test("a peer whose time has run out is removed, and counts as expired, not as drift", async () => {
  const notAfter = 1_900_000_000_000;
  const peers = [{ publicKey, allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter }];
  const items = [wireguard({ peers }), whitelist([`${LISTED}/32`])];
  await settle(drivers, items, notAfter - 1);
  expect(await dump()).toContain(publicKey);
  const { pass } = await import("./testing/pass.ts");
  const { done } = await pass(drivers, items, notAfter);
  expect(done.map((step) => step.cause)).toEqual(["expired"]);
  expect(await dump()).not.toContain(publicKey);
});

test("a tunnel without a whitelist lets nothing out; a removed one leaves nothing behind", async () => {
  await settle(drivers, basic());
  await settle(drivers, [wireguard()]);
  expect(await pings(LISTED)).toBe(false);
  expect(await pings("10.13.13.1")).toBe(true);
  await settle(drivers, []);
  expect((await exit.exec(["nft", "list", "ruleset"])).stdout.trim()).toBe("");
  expect((await exit.exec(["ip", "-o", "link"])).stdout).not.toContain("tl0");
  expect(store.interfaces()).toEqual([]);
  await settle(drivers, basic());
  await newSession();
  await poll(() => pings(LISTED), { what: "the tunnel to be back" });
});

test("an interface someone else made is never touched", async () => {
  await exit.ip("link add tl9 type veth peer name tl9p");
  const { pass } = await import("./testing/pass.ts");
  const { errors } = await pass(drivers, [wireguard({ interface: "tl9", listenPort: 51999 }), ...basic().slice(1)]);
  expect(errors.get("wg")).toMatch(/^interface_taken: /);
  expect((await exit.exec(["ip", "-o", "link"])).stdout).toContain("tl9");
  await exit.ip("link del tl9");
});
