import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Namespace, NetLab } from "../scripts/lab/netns.ts";
import { poll } from "../scripts/lab/poll.ts";
import { exec } from "../scripts/lab/process.ts";
import type { StateItem, WireguardItem } from "../shared/protocol/desired-state.ts";
import { AgentInNamespace } from "./testing/lab-agent.ts";

const KEY = "l2bFqBBtFSTqQfkPVLqsRkuF7NBSOkzUtvc9nmYOZ3w=";
const LATER = "YXNkZmFzZGZhc2RmYXNkZmFzZGZhc2RmYXNkZmFzZGY=";
let lab: NetLab;
beforeAll(async () => {
  lab = await NetLab.open("agent test");
});
afterAll(() => lab?.close());

const items: StateItem[] = [
  {
    type: "wireguard",
    id: "wg",
    interface: "tl0",
    listenPort: 51820,
    address: "10.13.13.1/24",
    mtu: 1392,
    peers: [{ publicKey: KEY, allowedIps: ["10.13.13.2/32"], keepalive: 0, notAfter: null }],
  },
  {
    type: "whitelist",
    id: "wl",
    interface: "tl0",
    cidrs: ["203.0.113.0/24", "198.51.100.0/25", "198.51.100.128/25"],
    domains: [],
    outInterface: "eth0",
  },
  {
    type: "relay",
    id: "rel",
    listen: { from: 40_000, to: 40_000 },
    to: { address: "203.0.113.9", port: 51820 },
    driver: "nft",
  },
  {
    type: "relay",
    id: "range",
    listen: { from: 30_000, to: 30_199 },
    to: { address: "203.0.113.9", port: "same" },
    driver: "nft",
  },
  {
    type: "relay",
    id: "socat",
    listen: { from: 50_000, to: 50_000 },
    to: { address: "203.0.113.9", port: 51820 },
    driver: "socat",
  },
];

async function kernel(ns: Namespace) {
  const nft = (await ns.exec(["nft", "-a", "-s", "list", "ruleset"])).stdout;
  const wg = (await ns.exec(["wg", "show", "tl0", "dump"])).stdout;
  const links = (await ns.exec(["ip", "-o", "addr", "show", "dev", "tl0"])).stdout;
  return { nft, wg, links, pids: await pidsOf(ns, "wireguard-go"), relays: await relayPids(ns) };
}

/** Those of our relays by socat; the one that carries the link to the test's control plane is none. */
async function relayPids(ns: Namespace): Promise<string[]> {
  const all = await pidsOf(ns, "socat");
  return all.filter((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("UDP4-LISTEN"));
}

async function pidsOf(ns: Namespace, program: string): Promise<string[]> {
  const { stdout } = await exec(["ip", "netns", "pids", ns.fullName]);
  const nameOf = (pid: string) => {
    try {
      return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    } catch {
      return ""; // ended meanwhile
    }
  };
  return stdout.split("\n").filter((pid) => nameOf(pid) === program);
}

async function boot(name: string): Promise<Namespace> {
  const ns = await lab.namespace(name);
  await ns.ip("link add eth0 type veth peer name eth0p", "addr add 203.0.113.2/24 dev eth0", "link set eth0 up");
  return ns;
}

test("an agent enrols, links, applies its state and says so; killed and started again it changes nothing", async () => {
  const ns = await boot("exit");
  const agent = await AgentInNamespace.create(ns, "exit");
  expect(agent.plane.enrolled?.wireguardPublicKey).toMatch(/=$/);
  agent.plane.want(1, items);
  agent.start();
  const ack = await agent.acked(1);
  expect(ack.results.filter((r) => !r.ok)).toEqual([]);
  const before = await kernel(ns);
  expect(before.wg).toContain(KEY);
  expect(before.nft).toContain("198.51.100.0/24");
  expect(before.nft).toContain("40000 : 203.0.113.9 . 51820");
  expect(before.relays).toHaveLength(1);
  // In a session of its own, so that no signal to the agent's group ends it.
  const [pid = ""] = before.pids;
  expect(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ")[3]).toBe(pid);
  const privateKey = (await ns.exec(["cat", `${agent.stateDir}/wireguard.key`])).stdout.trim();
  expect((await ns.exec(["stat", "-c", "%a", agent.stateDir, `${agent.stateDir}/wireguard.key`])).stdout).toBe(
    "700\n600\n",
  );

  await agent.kill("SIGKILL");
  agent.plane.frames.length = 0;
  agent.start();
  await agent.acked(1);
  expect(await kernel(ns)).toEqual(before);
  await poll(async () => (await agent.status()).stdout.includes("linked"), { what: "status" });
  expect(agent.log()).not.toContain(privateKey);
  expect(JSON.stringify(agent.plane.frames)).not.toContain(privateKey);

  agent.plane.want(2, []);
  await agent.acked(2);
  expect((await ns.exec(["nft", "list", "ruleset"])).stdout.trim()).toBe("");
  expect((await ns.exec(["ip", "-o", "link"])).stdout).not.toContain("tl0");
  expect(await relayPids(ns)).toEqual([]);
  await agent.kill("SIGTERM");
  expect(agent.child?.exitCode).toBe(0);
});

test("what is edited by hand is repaired within 30 s and told", async () => {
  const ns = await boot("drift");
  const agent = await AgentInNamespace.create(ns, "exit");
  agent.plane.want(1, items);
  agent.start();
  await agent.acked(1);
  const before = await kernel(ns);
  await ns.exec(["wg", "set", "tl0", "peer", KEY, "remove"]);
  await ns.exec(["nft", "insert", "rule", "ip", "trunkline_exit", "forward", "accept"]);
  await ns.exec(["nft", "delete", "element", "ip", "trunkline_relay", "fwd4", "{", "40000", "}"]);
  const events = () =>
    agent.plane.frames.flatMap((f) => (f.t === "observe" ? f.events : [])).filter((e) => e.kind === "drift_repaired");
  await poll(() => events().length >= 3, { what: "the repairs", timeoutMs: 30_000 });
  expect(new Set(events().map((e) => e.item))).toEqual(new Set(["wg", "wl", "rel"]));
  const now = await kernel(ns);
  expect(now.wg).toBe(before.wg);
  expect(now.nft).toContain("40000 : 203.0.113.9 . 51820");
  await agent.kill("SIGKILL");
});

test("after a reboot the data path comes up from the disk, with no control plane, and peers still expire", async () => {
  const first = await boot("reboot");
  const agent = await AgentInNamespace.create(first, "exit");
  const notAfter = Date.now() + 20_000;
  const later = { publicKey: LATER, allowedIps: ["10.13.13.3/32"], keepalive: 0, notAfter };
  const [tunnel, ...others] = items as [WireguardItem, ...StateItem[]];
  agent.plane.want(1, [{ ...tunnel, peers: [...tunnel.peers, later] }, ...others]);
  agent.start();
  await agent.acked(1);
  await lab.remove(first);
  const second = await boot("reboot");
  agent.start(second);
  await poll(async () => (await kernel(second)).wg.includes(LATER), { what: "the tunnel from the disk" });
  await poll(async () => (await kernel(second)).nft.includes("40000 : 203.0.113.9"), { what: "the relay" });
  await poll(async () => !(await kernel(second)).wg.includes(LATER), { what: "the peer to expire", timeoutMs: 40_000 });
  expect(Date.now()).toBeGreaterThanOrEqual(notAfter);
  expect((await kernel(second)).wg).toContain(KEY);
  // What happened meanwhile is told when there is a control plane again.
  await agent.forward(second);
  const expired = () =>
    agent.plane.frames.some((f) => f.t === "observe" && f.events.some((e) => e.kind === "expired_on_host"));
  await poll(expired, { what: "the event", timeoutMs: 60_000 });
  await agent.kill("SIGKILL");
});

test("with a damaged state file the agent says so, keeps the kernel as it is and takes the state anew", async () => {
  const ns = await boot("damaged");
  const agent = await AgentInNamespace.create(ns, "exit");
  agent.plane.want(1, items);
  agent.start();
  await agent.acked(1);
  const before = await kernel(ns);
  await agent.kill("SIGKILL");
  writeFileSync(`${agent.stateDir}/state.json`, readFileSync(`${agent.stateDir}/state.json`, "utf8").slice(0, 200));
  agent.plane.frames.length = 0;
  agent.start();
  await agent.acked(1);
  expect(agent.log()).toContain("can't be used and is treated as missing");
  expect(await kernel(ns)).toEqual(before);
  await agent.kill("SIGKILL");
});
