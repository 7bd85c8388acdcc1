import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { poll } from "../../scripts/lab/poll.ts";
import { stopChild } from "../../scripts/lab/process.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { argvOf } from "../proc.ts";
import { ExitLab, INET, TUNNEL } from "./testing/exit-lab.ts";
import { pass, settle } from "./testing/pass.ts";

const PROBE = join(import.meta.dirname, "testing/dns-probe.ts");
const TICKS = join(import.meta.dirname, "testing/tcp-ticks.ts");
/** All of it is the internet's, whoever asks for whichever of its addresses. */
const SITES = "198.51.100";
let x: ExitLab;
let upstream: ChildProcess;
const flows: ChildProcess[] = [];

beforeAll(async () => {
  x = await ExitLab.open("resolver test");
  await x.inet.exec(["ip", "route", "add", "local", `${SITES}.0/24`, "dev", "lo"]);
  await x.inet.exec(["ip", "route", "add", "local", "192.0.2.0/24", "dev", "lo"]);
  const server = x.inet.spawn([process.execPath, TICKS, "serve", "80"]);
  if (server.stdout) await once(server.stdout, "data");
  await startUpstream();
  x.exit.setResolver([INET]);
});
afterAll(() => x?.close());
beforeEach(() => x.fresh());
afterEach(async () => {
  await Promise.all(flows.splice(0).map((flow) => stopChild(flow, "SIGKILL")));
  // The tunnel stays: a client takes 15 s to notice that its session is gone.
  await settle(x.drivers, [x.wireguard()]);
});

/** The internet's name server: other.example and shared.example are one address, as names at a CDN are. */
async function startUpstream(): Promise<void> {
  const records = {
    "site.example": `${SITES}.1`,
    "below.site.example": `${SITES}.2`,
    "other.example": `${SITES}.3`,
    "shared.example": `${SITES}.3`,
    "a.wide.example": `${SITES}.4`,
    "wide.example": `${SITES}.5`,
    "secret.example": `${SITES}.6`,
    "inside.example": "10.9.9.9",
  };
  const fresh = Array.from({ length: 200 }, (_, i) => `host-record=n${i}.fresh.example,192.0.2.${i + 1},2001:db8::1`);
  const lines = Object.entries(records).map(([name, address]) => `host-record=${name},${address},2001:db8::2`);
  const config = join(x.inet.dir, "upstream.conf");
  const options = ["no-resolv", "no-hosts", "user=root", `listen-address=${INET}`, "bind-interfaces", "local-ttl=3600"];
  const cname = "cname=alias.example,other.example";
  writeFileSync(config, [...options, ...lines, ...fresh, cname, `pid-file=${config}.pid`, ""].join("\n"));
  upstream = x.inet.spawn(["dnsmasq", "--keep-in-foreground", `--conf-file=${config}`]);
  await poll(async () => (await x.inet.exec(["ss", "-Hlun", "sport = :53"])).stdout !== "", { what: "the upstream" });
  expect(upstream.exitCode).toBeNull();
}

const items = (domains: string[], cidrs: string[] = []): StateItem[] => [x.wireguard(), x.whitelist(cidrs, domains)];
const ask = async (name: string, type = "A", server = TUNNEL) =>
  (await x.client.exec([process.execPath, PROBE, "ask", server, name, type])).stdout.trim();
const opens = async (address: string) =>
  (await x.client.exec(["curl", "-s", "-m", "1", "-o", "/dev/null", `http://${address}/`], { check: false })).code !==
  7;
const held = async () => {
  const { stdout } = await x.exit.exec(["nft", "list", "set", "ip", "trunkline_exit", "dom4_tl0"]);
  return [...stdout.matchAll(/([0-9.]{7,}) expires/g)].map(([, address]) => address).sort();
};
const pid = () => Number(JSON.parse(readFileSync(join(x.exit.dir, "services/dns-tl0.json"), "utf8")).pid);

/** A running TCP flow of the client. */
function ticks(address: string) {
  const child = x.client.spawn([process.execPath, TICKS, "listen", address, "80"]);
  flows.push(child);
  let lines = 0;
  child.stdout?.on("data", (chunk: Buffer) => {
    lines += String(chunk).split("tick").length - 1;
  });
  return {
    count: () => lines,
    more: (n = 5) => {
      const from = lines;
      return poll(() => lines >= from + n, { what: `more of ${address}`, timeoutMs: 5000 });
    },
  };
}

test("a listed name resolves and works; a name that is not listed is refused; its address stays shut", async () => {
  await settle(x.drivers, items(["site.example", "*.wide.example", "alias.example"]));
  expect(await ask("site.example")).toBe(`["${SITES}.1"]`);
  expect(await ask("SITE.example")).toBe(`["${SITES}.1"]`);
  expect(await opens(`${SITES}.1`)).toBe(true);
  expect(await ask("alias.example")).toBe(`["${SITES}.3"]`);
  expect(await ask("a.wide.example")).toBe(`["${SITES}.4"]`);
  expect(await ask("secret.example")).toBe("EREFUSED");
  // An exact name is not those below it; names below are not the name itself; nor is a name that only ends alike.
  expect(await ask("below.site.example")).toBe("ENOTFOUND");
  expect(await ask("wide.example")).toBe("EREFUSED");
  expect(await ask("notwide.example")).toBe("EREFUSED");
  for (const shut of [`${SITES}.6`, `${SITES}.2`, `${SITES}.5`])
    expect([shut, await opens(shut)]).toEqual([shut, false]);
  expect(await held()).toEqual([`${SITES}.1`, `${SITES}.3`, `${SITES}.4`]);
  expect((await x.drivers[2].count("tl0")).deniedNames).toBe(4);
});

test("a name listed below an exact one resolves, and IPv6 answers are empty", async () => {
  await settle(x.drivers, items(["site.example", "below.site.example"]));
  expect(await ask("below.site.example")).toBe(`["${SITES}.2"]`);
  expect(await ask("site.example", "AAAA")).toBe("ENODATA");
  expect(await ask("site.example", "AAAA", INET)).toBe("ENODATA");
});

test("the address is open before the answer is: not one of 200 fresh names loses its first packet", async () => {
  await settle(x.drivers, items(["*.fresh.example"]));
  const { stdout } = await x.client.exec([process.execPath, PROBE, "fresh", TUNNEL, "200", "fresh.example"]);
  expect(stdout).toBe("connected 200\n");
  expect(await held()).toHaveLength(200);
});

test("whatever resolver the client asks, over UDP or TCP, it is ours that answers", async () => {
  await settle(x.drivers, items(["site.example"], [`${INET}/32`]));
  // Listed even, and asked directly: the redirection comes first.
  for (const server of [INET, "8.8.8.8"]) {
    expect(await ask("site.example", "A", server)).toBe(`["${SITES}.1"]`);
    expect(await ask("secret.example", "A", server)).toBe("EREFUSED");
  }
  const tcp = await x.client.exec(["curl", "-s", "-m", "1", "telnet://8.8.8.8:53"], { check: false });
  expect(tcp.code).not.toBe(7);
  // DNS over HTTPS and TLS are but addresses that nobody listed.
  for (const port of [443, 853]) {
    const { code } = await x.client.exec(["curl", "-s", "-m", "1", `https://8.8.8.8:${port}/dns-query`], {
      check: false,
    });
    expect([port, code]).toEqual([port, 7]);
  }
});

test("a listed name that points inside the host's own networks opens nothing", async () => {
  await settle(x.drivers, items(["inside.example"]));
  await ask("inside.example");
  expect(await opens("10.9.9.9")).toBe(false);
});

test("a removed name ends its running flow at once, and no flow of another name, also one at the same address", async () => {
  await settle(x.drivers, items(["site.example", "other.example", "shared.example"]));
  for (const name of ["site.example", "other.example", "shared.example"]) await ask(name);
  const [cut, shared] = [ticks(`${SITES}.1`), ticks(`${SITES}.3`)];
  await Promise.all([cut.more(), shared.more()]);
  await settle(x.drivers, items(["shared.example"]));
  const then = cut.count();
  await shared.more(30);
  expect(cut.count() - then).toBeLessThan(3);
  expect(await held()).toEqual([`${SITES}.3`]);
  await poll(async () => (await ask("site.example")) === "EREFUSED", { what: "the name to be unknown" });
  // Listed again, it works again, also for a client that still remembers the answer.
  await settle(x.drivers, items(["site.example"]));
  await cut.more();
});

test("an address lasts while packets go to it, though nobody asks for its name again", async () => {
  await settle(x.drivers, items(["site.example", "*.wide.example"]));
  await ask("site.example");
  await ask("a.wide.example");
  await x.exit.exec(["nft", "-f", "-"], { input: shortened(1) + shortened(4) });
  const used = ticks(`${SITES}.1`);
  await used.more();
  await poll(async () => !(await held()).includes(`${SITES}.4`), { what: "the idle address to expire" });
  await used.more(20);
  expect(await held()).toEqual([`${SITES}.1`]);
});
const shortened = (last: number) => {
  const element = `ip trunkline_exit dom4_tl0 { ${SITES}.${last}`;
  return `delete element ${element} }\nadd element ${element} expires 2s }\n`;
};

test("an answer given again after its address expired opens it again: nothing is answered from a cache", async () => {
  await settle(x.drivers, items(["site.example"]));
  await ask("site.example");
  await x.exit.exec(["nft", "flush", "set", "ip", "trunkline_exit", "dom4_tl0"]);
  await ask("site.example");
  expect(await held()).toEqual([`${SITES}.1`]);
  expect(await opens(`${SITES}.1`)).toBe(true);
});

test("an address answered lately and about to expire is renewed by the next pass, which is no drift", async () => {
  await settle(x.drivers, items(["site.example"]));
  await ask("site.example");
  await x.exit.exec(["nft", "-f", "-"], { input: shortened(1).replace("2s", "60s") });
  const { done } = await pass(x.drivers, items(["site.example"]));
  expect(done.map((step) => step.cause)).toEqual(["routine"]);
  expect(await settle(x.drivers, items(["site.example"]))).toEqual([]);
});

test("an agent that starts again adopts the resolver and knows whose addresses there are", async () => {
  const all = items(["site.example", "other.example"]);
  await settle(x.drivers, all);
  await ask("site.example");
  await ask("other.example");
  const before = pid();
  x.fresh();
  expect(await settle(x.drivers, all)).toEqual([]);
  expect(pid()).toBe(before);
  await settle(x.drivers, items(["site.example"]));
  expect(await held()).toEqual([`${SITES}.1`]);
  expect(pid()).toBe(before);
});

test("a killed resolver is started again, an address put in by hand is taken out, and flows run on meanwhile", async () => {
  const all = items(["site.example"]);
  await settle(x.drivers, all);
  await ask("site.example");
  const flow = ticks(`${SITES}.1`);
  await flow.more();
  process.kill(pid(), "SIGKILL");
  await x.exit.exec(["nft", "add", "element", "ip", "trunkline_exit", "dom4_tl0", `{ ${SITES}.6 }`]);
  await settle(x.drivers, all);
  expect(await ask("site.example")).toBe(`["${SITES}.1"]`);
  const taken = async () => {
    await settle(x.drivers, all);
    return !(await held()).includes(`${SITES}.6`);
  };
  await poll(taken, { what: "the address to be taken out" });
  expect(await held()).toEqual([`${SITES}.1`]);
  // New rules around the set: what is in it stays.
  await settle(x.drivers, [x.wireguard({ mtu: 1380 }), x.whitelist([], ["site.example"])]);
  await flow.more(20);
});

test("5,000 names load in well under a second, and one more among them", async () => {
  const names = Array.from({ length: 5000 }, (_, i) => (i % 2 ? `host${i}.example` : `*.zone${i}.example`));
  const times: number[] = [];
  await settle(x.drivers, items(["site.example"]));
  for (const name of ["other.example", "shared.example"]) {
    names.push(name);
    const before = performance.now();
    await settle(x.drivers, items(names));
    await poll(async () => (await ask(name)) === `["${SITES}.3"]`, { what: "the names" });
    times.push(Math.round(performance.now() - before));
  }
  process.stdout.write(`5,000 names, until they resolve from the client: ${times.join(" ms, one more: ")} ms\n`);
  expect(Math.max(...times)).toBeLessThan(3000);
});

test("a resolver that nobody needs goes, and leaves nothing behind", async () => {
  await settle(x.drivers, items(["site.example"]));
  const was = pid();
  await settle(x.drivers, items([], [`${INET}/32`]));
  await poll(() => argvOf(was).length === 0, { what: "the process to end" });
  // Without names, DNS is as any other traffic: to what is listed it passes, to what is not it does not.
  expect(await ask("secret.example", "A", INET)).toBe(`["${SITES}.6"]`);
});

test("with nobody to ask, the item says so", async () => {
  x.exit.setResolver([]);
  const { errors } = await pass(x.drivers, items(["site.example"]));
  expect([...errors]).toEqual([["wl", expect.stringMatching(/^no_resolver: /)]]);
  const own = [x.wireguard(), x.whitelist([], ["site.example"], { resolvers: [INET] })];
  await settle(x.drivers, own);
  expect(await ask("site.example")).toBe(`["${SITES}.1"]`);
  x.exit.setResolver([INET]);
});
