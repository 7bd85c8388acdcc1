import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startControlPlane } from "./control-plane.ts";
import { createLab, type Lab, WEB_LISTED, WEB_UNLISTED } from "./lab.ts";
import { poll } from "./poll.ts";
import { exec, startTimeOf } from "./process.ts";
import { listLabs, REGISTRY } from "./registry.ts";
import { httpGet, pingFlood, startStream } from "./traffic.ts";

const namespacesOf = async (id: string) =>
  (await exec(["ip", "netns", "list"])).stdout.split("\n").filter((line) => line.startsWith(`tl${id}-`));
const rootInterfaces = async () => (await exec(["ip", "-o", "link"])).stdout.split("\n").length;

describe("one lab", () => {
  let lab: Lab;
  let interfacesBefore = 0;
  beforeAll(async () => {
    interfacesBefore = await rootInterfaces();
    lab = await createLab({ clients: 2, forwards: 2, exits: 2, purpose: "lab test" });
  });
  afterAll(() => lab?.close());

  test("every host reaches every other through the internet", async () => {
    for (const host of lab.hosts) {
      const argv = lab.hosts.filter((h) => h !== host).map((h) => pingFlood(host, h.address, { count: 1 }));
      for (const result of await Promise.all(argv)) expect(result.received).toBe(1);
    }
  });

  test("exits and forwards share the private network, clients and boarding hosts are not on it", async () => {
    const [exit, forward] = [lab.host("exit1"), lab.host("forward1")];
    const before = await exit.ns.counters("eth0");
    expect((await pingFlood(exit, forward.privateAddress ?? "", { count: 5 })).received).toBe(5);
    expect(await exit.ns.counters("eth0")).toEqual(before);
    for (const outsider of [lab.host("client1"), lab.host("boarding1")]) {
      expect((await pingFlood(outsider, forward.privateAddress ?? "", { count: 1 })).received).toBe(0);
    }
  });

  test("the sites answer with the address they saw", async () => {
    const exit = lab.host("exit1");
    expect((await httpGet(exit, `http://${WEB_LISTED}/`)).body.trim()).toBe(exit.address);
    expect((await httpGet(exit, `http://${WEB_UNLISTED}/bytes/12345`)).bytes).toBe(12_345);
    await exit.addAddress("203.0.113.200");
    const other = await httpGet(exit, `http://${WEB_LISTED}/`, { args: ["--interface", "203.0.113.200"] });
    expect(other.body.trim()).toBe("203.0.113.200");
    await exit.removeAddress("203.0.113.200");
  });

  test("a stalled flow shows as a gap", async () => {
    const client = lab.host("client2");
    const stream = await startStream(client);
    await client.setPublicLink(false);
    await poll(() => stream.longestGapMs() > 150, { what: "the gap to show" });
    await client.setPublicLink(true);
    const sofar = stream.bytes();
    await poll(() => stream.bytes() > sofar, { what: "the flow to go on" });
    await stream.stop();
  });

  test("a reboot empties the kernel and keeps addresses and folder", async () => {
    const exit = lab.host("exit2");
    const bootId = async () => (await exit.ns.exec(["cat", "/proc/sys/kernel/random/boot_id"])).stdout;
    const before = await bootId();
    await exit.ns.exec(["nft", "add", "table", "ip", "leftover"]);
    mkdirSync(join(exit.dir, "state"));
    writeFileSync(join(exit.dir, "state", "key"), "kept");
    const daemon = exit.ns.spawn(["sleep", "1000"]);
    await exit.reboot();
    expect(daemon.signalCode).toBe("SIGKILL");
    expect((await exit.ns.exec(["nft", "list", "tables"])).stdout).toBe("");
    expect((await exit.ns.exec(["cat", join(exit.dir, "state", "key")])).stdout).toBe("kept");
    expect(await bootId()).not.toBe(before);
    expect((await httpGet(exit, `http://${WEB_LISTED}/`)).body.trim()).toBe(exit.address);
  });

  test("a program on the cp host is reached from this machine, and from the lab by its address", async () => {
    const cp = await startControlPlane(lab, { argv: ["scripts/lab/web.ts", "--port", "8787"], ready: "/" });
    expect((await fetch(cp.localUrl)).status).toBe(200);
    expect((await httpGet(lab.host("client1"), cp.url)).body.trim()).toBe(lab.host("client1").address);
    await cp.kill9();
    await expect(fetch(cp.localUrl)).rejects.toThrow();
    await cp.start();
    expect((await fetch(cp.localUrl)).status).toBe(200);
  });

  test("the machine's own network is left as it was", async () => {
    expect(await rootInterfaces()).toBe(interfacesBefore);
  });
});

test("two labs side by side do not disturb each other", async () => {
  await using first = await createLab({ clients: 1, boardings: 0, forwards: 0, exits: 1, purpose: "first" });
  const stream = await startStream(first.host("client1"));
  const second = await createLab({ clients: 1, boardings: 0, forwards: 0, exits: 1, purpose: "second" });
  expect(second.host("exit1").address).toBe(first.host("exit1").address);
  await second.inet.ip("link set exit1 down");
  expect((await pingFlood(second.host("client1"), second.host("exit1").address, { count: 1 })).received).toBe(0);
  expect((await pingFlood(first.host("client1"), first.host("exit1").address, { count: 1 })).received).toBe(1);
  await second.close();
  expect(await namespacesOf(second.id)).toEqual([]);
  expect(stream.alive()).toBe(true);
  const sofar = stream.bytes();
  await poll(() => stream.bytes() > sofar, { what: "the first lab's flow to go on" });
  expect(existsSync(join(REGISTRY, first.id))).toBe(true);
});

test("a lab whose owner was killed is cleared by the next, processes and all", async () => {
  const owner = spawn(process.execPath, [join(import.meta.dirname, "cli.ts"), "up"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let said = "";
  owner.stdout?.on("data", (chunk: Buffer) => {
    said += chunk;
  });
  const id = await poll(() => /^lab ([0-9a-f]+) stands[\s\S]*sites:/.exec(said)?.[1], { what: "the doomed lab" });
  const { stdout } = await exec(["ip", "netns", "pids", `tl${id}-inet`]);
  const web = stdout.trim().split("\n").map(Number);
  expect(web.length).toBeGreaterThanOrEqual(2); // its holder and the sites
  await using bystander = await createLab({ clients: 0, boardings: 0, forwards: 0, exits: 0, purpose: "bystander" });
  expect((await namespacesOf(id)).length).toBe(8);

  owner.kill("SIGKILL");
  await once(owner, "exit");
  expect(listLabs().find((lab) => lab.id === id)?.alive).toBe(false);
  await using next = await createLab({ clients: 0, boardings: 0, forwards: 0, exits: 0, purpose: "next" });
  expect(await namespacesOf(id)).toEqual([]);
  expect(web.map(startTimeOf).filter(Boolean)).toEqual([]);
  expect(existsSync(join(REGISTRY, id))).toBe(false);
  expect((await namespacesOf(bystander.id)).length).toBe(3);
  expect((await namespacesOf(next.id)).length).toBe(3);
});
