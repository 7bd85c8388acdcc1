import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildAgent } from "../../scripts/build-agent.ts";
import { Container } from "../../scripts/lab/container.ts";
import { createLab, type Lab, type LabHost } from "../../scripts/lab/lab.ts";
import { poll } from "../../scripts/lab/poll.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { startEcho, UdpFlow } from "./testing/flow.ts";

/** Where systemd runs, services are its units: here on a real one, with the powers that the agent's own unit leaves it. */
const RELAY = "trunkline-relay@40000.service";
const RESOLVER = "trunkline-dns-tl0.service";
let lab: Lab;
let machine: Container;
let flow: UdpFlow;

beforeAll(async () => {
  lab = await createLab({ clients: 1, boardings: 0, forwards: 0, exits: 1, purpose: "systemd services test" });
  await lab.explain(async () => {
    machine = await Container.create(lab, lab.exits[0] as LabHost);
    const entry = "agent/drivers/testing/systemd-pass.ts";
    const { dir } = await buildAgent({ out: join(lab.cp.dir, "releases"), entry });
    mkdirSync(machine.path("/opt/test"), { recursive: true });
    copyFileSync(join(dir, "agent.mjs"), machine.path("/opt/test/pass.mjs"));
    copyFileSync(process.execPath, machine.path("/opt/test/node"));
    copyFileSync(join(dir, "trunkline-relay@.service"), machine.path("/etc/systemd/system/trunkline-relay@.service"));
    writeFileSync(machine.path("/etc/resolv.conf"), "nameserver 192.0.2.53\n");
    await machine.exec(["systemctl", "daemon-reload"]);
    for (const port of [5000, 5001]) await startEcho(lab.inet, port, port === 5000 ? "A" : "B");
  });
});
afterAll(() => lab?.close());

const relay = (port: number): StateItem => {
  const to = { address: lab.exits[0]?.router ?? "", port };
  return { type: "relay", id: "r40000", listen: { from: 40_000, to: 40_000 }, to, driver: "socat" };
};
const exitItems: StateItem[] = [
  { type: "wireguard", id: "wg", interface: "tl0", listenPort: 51820, address: "10.13.13.1/24", mtu: 1392, peers: [] },
  { type: "whitelist", id: "wl", interface: "tl0", cidrs: [], domains: ["site.example"], outInterface: "eth0" },
];

/** A pass with no more than the agent's unit allows. */
async function onePass(items: StateItem[]) {
  const unit = readFileSync(join(import.meta.dirname, "../../scripts/install/trunkline-agent.service"), "utf8");
  const powers = [...unit.matchAll(/^(?:Capability|NoNew|Protect|Restrict|SystemCall|Lock)\w+=.*$/gm)].map(
    ([line]) => line,
  );
  const properties = [...powers, "StateDirectory=trunkline", "StateDirectoryMode=0700", "RuntimeDirectory=wireguard"];
  properties.push("RuntimeDirectoryPreserve=yes");
  const argv = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", ...properties.map((p) => `--property=${p}`)];
  const run = ["--", "/opt/test/node", "/opt/test/pass.mjs", JSON.stringify(items)];
  const { stdout, stderr } = await machine.exec([...argv, ...run], { check: false, timeoutMs: 60_000 });
  if (stdout === "") throw new Error(stderr);
  return JSON.parse(stdout) as { done: string[]; failed: string[]; relays: { flows: number; bytes: number }[] };
}
const mainPid = (unit: string) => machine.show(unit, "MainPID");

test("relay and resolver come up as units of their own, which the next agent finds as they are", () =>
  lab.explain(async () => {
    const first = await onePass([relay(5000), ...exitItems]);
    expect(first.failed).toEqual([]);
    expect(await machine.show(RELAY, "ActiveState")).toBe("active");
    expect(await machine.show(RESOLVER, "ActiveState")).toBe("active");
    const pids = [await mainPid(RELAY), await mainPid(RESOLVER)];
    flow = new UdpFlow((lab.clients[0] as LabHost).ns, machine.host.address, 40_000);
    expect(new Set(await flow.next())).toEqual(new Set(["A"]));
    const second = await onePass([relay(5000), ...exitItems]);
    expect([second.done, second.failed]).toEqual([[], []]);
    expect([await mainPid(RELAY), await mainPid(RESOLVER)]).toEqual(pids);
    // The account of what it carries can be read with the agent's powers.
    expect(second.relays[0]).toMatchObject({ flows: 1, bytes: expect.any(Number) });
    expect(second.relays[0]?.bytes).toBeGreaterThan(0);
    await flow.next();
    expect(flow.lost()).toBe(0);
  }));

test("a change takes the running flow along, a killed relay is restarted by systemd itself, a removed one stops at once", () =>
  lab.explain(async () => {
    expect((await onePass([relay(5001), ...exitItems])).failed).toEqual([]);
    expect(new Set(await flow.next(20))).toEqual(new Set(["B"]));
    const before = await mainPid(RELAY);
    await machine.exec(["systemctl", "kill", "--signal=SIGKILL", RELAY]);
    await poll(async () => !["0", before].includes(await mainPid(RELAY)), { what: "another relay process" });
    expect(new Set(await flow.next())).toEqual(new Set(["B"]));
    expect((await onePass([])).failed).toEqual([]);
    await flow.falls();
    expect(await machine.show(RELAY, "ActiveState")).toBe("inactive");
    expect(await machine.show(RESOLVER, "LoadState")).toBe("not-found");
    await flow.stop();
  }));
