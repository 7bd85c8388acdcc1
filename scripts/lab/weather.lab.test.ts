import { afterAll, beforeAll, expect, test } from "vitest";
import { propertySeed } from "../../control-plane/testing/note.ts";
import { type Dice, dice, pick } from "../../shared/testing/dice.ts";
import { Api, ApiProblem } from "./api.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { echoStream } from "./echo-stream.ts";
import { heldBy, Truth, wantedOf } from "./kernel-truth.ts";
import { createLab, type Lab, type LabHost, WEB_LISTED } from "./lab.ts";
import { poll } from "./poll.ts";
import {
  type EnrolledHost,
  enrolHost,
  makeCustomer,
  openLine,
  orderLine,
  putCatalogue,
  SERVICE_TYPE,
  signInAsAdmin,
  untilCompleted,
  untilInSync,
} from "./stage.ts";
import { Weather } from "./weather.ts";
import { connectTunnel } from "./wireguard-client.ts";

/** How long sequences go on; the one that has begun is finished. `FC_MINUTES` for more. */
const LONGEST_MS = Number(process.env.FC_MINUTES ?? 0.3) * 60_000;

let lab: Lab;
let cp: ControlPlane;
let admin: Api;
let boarding: EnrolledHost;
let forward: EnrolledHost;
/** The exit of the line that nobody touches, and of the one that everything happens to. */
let quiet: EnrolledHost;
let busy: EnrolledHost;
let busyToken: string;
let weather: Weather;
let truth: Truth;
const hosts = () => [boarding, forward, quiet, busy];
const say = (text: string) => process.stdout.write(`${text}\n`);

beforeAll(async () => {
  lab = await createLab({ exits: 2, clients: 1, purpose: "weather test" });
  await lab.explain(async () => {
    // Small disks, that can be filled.
    await lab.cp.ns.exec(["mkdir", `${lab.cp.dir}/data`]);
    await lab.cp.ns.exec(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", `${lab.cp.dir}/data`]);
    cp = await startControlPlane(lab, {
      env: { HOST: "0.0.0.0", DATA_DIR: `${lab.cp.dir}/data`, PORT_QUARANTINE_S: "0" },
    });
    admin = await signInAsAdmin(lab, cp);
    await putCatalogue(admin);
    boarding = await enrolHost(lab, cp, admin, lab.boardings[0] as LabHost);
    forward = await enrolHost(lab, cp, admin, lab.forwards[0] as LabHost);
    const exits: EnrolledHost[] = [];
    for (const host of lab.exits) exits.push(await enrolHost(lab, cp, admin, host));
    await admin.post("/pairs", { boardingHostId: boarding.id, forwardHostId: forward.id, maxLoad: 50 });
    await untilInSync(admin, boarding.id);
    const { api } = await makeCustomer(admin, "mei");
    const { order } = await orderLine(api, 2);
    const [one, two] = await untilCompleted(api, order.id);
    const tokens = [];
    for (const line of [one, two]) tokens.push((await api.post(`/lines/${line.id}/tokens`, { name: "test" })).token);
    quiet = exits.find(({ host }) => host.address === one.eip) as EnrolledHost;
    busy = exits.find(({ host }) => host.address === two.eip) as EnrolledHost;
    busyToken = tokens[1];
    await connectTunnel(lab, lab.clients[0] as LabHost, (await openLine(cp.localUrl, tokens[0])).conf);
    weather = await Weather.over(lab);
    truth = new Truth(lab, `${lab.cp.dir}/data/trunkline.db`);
  });
});
afterAll(async () => {
  await truth?.close();
  await lab?.close();
});

/** Calls that the API refuses, or that nobody answers, are part of the weather. */
async function call(what: () => Promise<unknown>): Promise<void> {
  try {
    await what();
  } catch (error) {
    const unanswered = error instanceof TypeError || (error as Error).name === "AbortError";
    if (!unanswered && !(error instanceof ApiProblem && error.status < 500)) throw error;
  }
}

let connection: string | undefined;
const deeds: Record<string, (random: Dice) => Promise<void>> = {
  open: () =>
    call(async () => {
      const opened = await new Api(cp.localUrl, busyToken).post("/connections?waitMs=0", { generate: true });
      connection = opened.id;
    }),
  close: () => call(() => new Api(cp.localUrl, busyToken).delete(`/connections/${connection}`)),
  whitelist: (random) =>
    call(() =>
      admin.put(`/service-types/${SERVICE_TYPE}`, {
        name: "Sites",
        cidrs: [`${WEB_LISTED}/32`, `192.0.2.${90 + 2 * Math.floor(random() * 3)}/32`],
      }),
    ),
  "kill agent": async (random) => pick(hosts(), Math.floor(random() * 4))?.agent.kill9(),
  "start agent": async (random) => {
    const agent = pick(hosts(), Math.floor(random() * 4))?.agent;
    if (agent?.running === false) agent.start();
  },
  "kill control plane": () => cp.kill9(),
  hole: async (random) => weather.hole((pick(hosts(), Math.floor(random() * 4)) as EnrolledHost).host),
  cut: async (random) => weather.cut((pick(hosts(), Math.floor(random() * 4)) as EnrolledHost).host),
  "clear weather": () => weather.clear(),
  "edit relay": async (random) => {
    const port = 31_000 + Math.floor(random() * 100);
    const element = `{ ${port} : 192.0.2.9 . 9 }`;
    await forward.host.ns.exec(["nft", "add", "element", "ip", "trunkline_relay", "fwd4", element], { check: false });
  },
  "edit whitelist": async (random) => {
    const { ns } = busy.host;
    if (random() < 0.5) await ns.exec(["nft", "delete", "table", "ip", "trunkline_exit"], { check: false });
    else
      await ns.exec(["nft", "add", "element", "ip", "trunkline_exit", "wl4_tl0", "{ 198.51.100.99 }"], {
        check: false,
      });
  },
  "edit tunnel": async () => {
    const { stdout } = await busy.host.ns.exec(["wg", "show", "tl0", "peers"], { check: false });
    const peer = stdout.trim();
    if (peer !== "") await busy.host.ns.exec(["wg", "set", "tl0", "peer", peer, "remove"], { check: false });
    else await busy.host.ns.exec(["wg", "set", "tl0", "listen-port", "4444"], { check: false });
  },
  wait: (random) => new Promise((resolve) => setTimeout(resolve, random() * 1500)),
};

/** Everyone works again: the hosts must come to hold what the database says, each by itself. */
async function comesToRest(): Promise<void> {
  await weather.clear();
  if (
    !(await fetch(`${cp.localUrl}/readyz`)
      .then((r) => r.ok)
      .catch(() => false))
  )
    await cp.start();
  for (const { agent } of hosts()) if (!agent.running) agent.start();
  for (const { id, host } of hosts()) {
    await untilInSync(admin, id, { timeoutMs: 90_000 });
    await poll(
      async () => {
        const wanted = wantedOf(await truth.desired(id), Date.now()).join("\n");
        const held = (await heldBy(host.ns)).join("\n");
        if (wanted !== held) throw new Error(`${host.name} holds\n${held}\ninstead of\n${wanted}`);
        return true;
      },
      { what: `${host.name}'s kernel to be as desired`, timeoutMs: 45_000, everyMs: 100 },
    );
  }
}

test(
  "random sequences on real kernels end as desired, and a flow that is not meant loses no packet",
  () =>
    lab.explain(async () => {
      const random = dice(propertySeed("weather in the lab"));
      const stream = echoStream(lab.clients[0] as LabHost, WEB_LISTED, 10);
      await stream.answers();
      const names = Object.keys(deeds);
      const counts: Record<string, number> = {};
      const until = Date.now() + LONGEST_MS;
      let sequences = 0;
      for (; Date.now() < until; sequences++) {
        const done: string[] = [];
        try {
          for (let n = 2 + Math.floor(random() * 6); n > 0; n--) {
            const name = pick(names, Math.floor(random() * names.length)) ?? "";
            done.push(name);
            counts[name] = (counts[name] ?? 0) + 1;
            await deeds[name]?.(random);
          }
          await comesToRest();
        } catch (error) {
          throw new Error(`after ${sequences} sequences, in ${done.join(", ")}: ${(error as Error).message}`);
        }
      }
      const { sent, lost } = await stream.stop();
      say(`weather in the lab: ${sequences} sequences ended as desired, deeds ${JSON.stringify(counts)}`);
      say(`weather in the lab: ${sent} echo requests on the line that was not meant, ${lost} lost`);
      expect(lost).toBe(0);
      expect(sequences).toBeGreaterThan(1);
    }),
  LONGEST_MS + 180_000,
);

/** Fills the disk that a directory is on, to the last byte; answers how to give it back. */
async function fill(host: LabHost, dir: string): Promise<() => Promise<void>> {
  const filler = `${dir}/filler`;
  await host.ns.exec(["dd", "if=/dev/zero", `of=${filler}`, "bs=4096"], { check: false });
  await host.ns.exec(["dd", "if=/dev/zero", `of=${filler}.rest`, "bs=1"], { check: false });
  return async () => void (await host.ns.exec(["rm", "-f", filler, `${filler}.rest`]));
}

const eventOf = (host: EnrolledHost, kind: string) =>
  poll(
    async () => {
      const { items } = await admin.get(`/hosts/${host.id}/events?limit=200`);
      return items.find((event: { kind: string }) => event.kind === kind);
    },
    { what: `${host.host.name} to report ${kind}`, timeoutMs: 40_000, everyMs: 100 },
  );

const holdsDesired = (host: EnrolledHost) =>
  poll(
    async () => {
      const wanted = wantedOf(await truth.desired(host.id), Date.now()).join();
      return wanted === (await heldBy(host.host.ns)).join();
    },
    { what: `${host.host.name}'s kernel to be as desired`, timeoutMs: 45_000, everyMs: 100 },
  );

test("a full disk on a host: what changes is applied and reported, nothing is lost by a crash, and space heals it", () =>
  lab.explain(async () => {
    const { agent, host } = busy;
    const { ns } = host;
    // Its state directory moves to a disk of its own.
    await agent.kill9();
    const aside = `${host.dir}/aside`;
    await ns.exec(["cp", "-a", agent.stateDir, aside]);
    await ns.exec(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", agent.stateDir]);
    await ns.exec(["cp", "-a", `${aside}/.`, agent.stateDir]);
    const stream = echoStream(lab.clients[0] as LabHost, WEB_LISTED, 10);
    await stream.answers();
    let since = Date.now();
    agent.start();
    await untilInSync(admin, busy.id, { since, timeoutMs: 60_000 });
    const kept = async () => JSON.parse((await ns.exec(["cat", `${agent.stateDir}/state.json`])).stdout).rev as number;
    const before = await kept();

    const free = await fill(host, agent.stateDir);
    const opened = await openLine(cp.localUrl, busyToken);
    const filledAt = Date.now();
    await eventOf(busy, "disk_failed");
    const reportedAfter = Date.now() - filledAt;
    await holdsDesired(busy);
    expect((await heldBy(ns)).join()).toContain(opened.clientPublicKey);
    expect(await kept()).toBe(before);

    // A crash now: it comes back with its last good state, links, and is told the newest again.
    await agent.kill9();
    since = Date.now();
    agent.start();
    await untilInSync(admin, busy.id, { since, timeoutMs: 60_000 });
    await holdsDesired(busy);
    const pid = agent.pid;

    await free();
    await eventOf(busy, "disk_recovered");
    await poll(async () => (await kept()) > before, { what: "the newest state to be on disk" });
    expect(agent.pid).toBe(pid);
    const { sent, lost } = await stream.stop();
    say(
      `full disk on a host: one change applied, reported after ${reportedAfter} ms, one crash survived, healed by itself; ` +
        `${sent} echo requests on another line, ${lost} lost`,
    );
    expect(lost).toBe(0);
  }));

test("a black-holed control connection is noticed by both sides in 40 s, shown, and comes back by itself; the data path goes on", () =>
  lab.explain(async () => {
    const stream = echoStream(lab.clients[0] as LabHost, WEB_LISTED, 10);
    await stream.answers();
    await weather.hole(forward.host);
    const from = Date.now();
    const phase = async () =>
      JSON.parse((await forward.host.ns.exec(["cat", `${forward.agent.stateDir}/status.json`])).stdout).link.phase;
    const after = async (what: string, seen: () => Promise<boolean>) => {
      await poll(seen, { what, timeoutMs: 60_000, everyMs: 200 });
      return Math.round((Date.now() - from) / 100) / 10;
    };
    const [agentAfter, planeAfter] = await Promise.all([
      after("the agent to notice", async () => (await phase()) !== "linked"),
      after("the control plane to notice", async () => (await admin.get(`/hosts/${forward.id}`)).state === "offline"),
    ]);
    await stream.answers();
    const since = Date.now();
    await weather.clear();
    await untilInSync(admin, forward.id, { since, timeoutMs: 90_000 });
    const { sent, lost } = await stream.stop();
    say(
      `black-holed link: agent noticed after ${agentAfter} s, control plane after ${planeAfter} s; ` +
        `back ${(Date.now() - since) / 1000} s after it ended; ${sent} echo requests, ${lost} lost`,
    );
    // 40 s of silence, counted by a tick a second, and shown by a file that is written once a second.
    expect(Math.max(agentAfter, planeAfter)).toBeLessThan(44);
    expect(lost).toBe(0);
  }));

test("a full disk on the control plane: nothing is half done, the data path goes on, and space heals it", () =>
  lab.explain(async () => {
    const stream = echoStream(lab.clients[0] as LabHost, WEB_LISTED, 10);
    await stream.answers();
    const free = await fill(lab.cp, `${lab.cp.dir}/data`);
    let made = 0;
    let refusal: ApiProblem | undefined;
    const make = () => admin.put(`/service-types/FULL-${made}`, { name: "x".repeat(60), cidrs: ["192.0.2.0/24"] });
    while (refusal === undefined && made < 2000)
      try {
        await make();
        made++;
      } catch (error) {
        refusal = error as ApiProblem;
      }
    expect(refusal?.status).toBeGreaterThanOrEqual(500);
    expect(refusal?.code).toMatch(/^[a-z_]+$/);
    const ready = async () => (await fetch(`${cp.localUrl}/readyz`)).status;
    expect(await ready()).toBe(503);
    // It still answers, and hosts still carry.
    expect((await admin.get("/hosts")).items.length).toBe(4);
    await stream.answers();
    await free();
    const since = Date.now();
    await poll(async () => (await ready()) === 200, { what: "it to be ready again", timeoutMs: 30_000 });
    await poll(() => make().then(() => true), { what: "writes to work again", timeoutMs: 30_000 });
    made++;
    expect(await truth.number("SELECT COUNT(*) AS n FROM service_types WHERE id LIKE 'FULL-%'")).toBe(made);
    expect(await truth.number("SELECT COUNT(*) AS n FROM audit_log WHERE subject LIKE 'FULL-%'")).toBe(made);
    for (const { id } of hosts()) await untilInSync(admin, id, { timeoutMs: 90_000 });
    const { sent, lost } = await stream.stop();
    say(
      `full disk on the control plane: refused with ${refusal?.status} ${refusal?.code} after ${made - 1} writes, nothing half done, ` +
        `all in sync ${(Date.now() - since) / 1000} s after there was space; ${sent} echo requests, ${lost} lost`,
    );
    expect(lost).toBe(0);
  }));
