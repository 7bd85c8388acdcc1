import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildAgent } from "../../scripts/build-agent.ts";
import type { Answer } from "../../scripts/lab/api.ts";
import type { Container } from "../../scripts/lab/container.ts";
import {
  type ContainerWorld,
  createContainerWorld,
  lossDuring,
  runLine,
  testReleaseKey,
} from "../../scripts/lab/container-world.ts";
import { type InstalledHost, installHost, runInstaller } from "../../scripts/lab/install.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { untilInSync } from "../../scripts/lab/stage.ts";
import { makeReleaseKey } from "../../scripts/release.ts";
import { STATE_SCHEMA } from "../state-schema.ts";

const UNIT = "trunkline-agent.service";
const UP = "/var/lib/trunkline/upgrade";
const TESTING = "agent/upgrade/testing";
const say = (text: string) => process.stdout.write(`${text}\n`);

let world: ContainerWorld;
let exit: InstalledHost;
let forward: InstalledHost;

beforeAll(async () => {
  world = await createContainerWorld("upgrade test");
  await world.lab.explain(async () => {
    const { cp, admin, releases: out } = world;
    // Installed before the other versions are there: an installer takes the newest.
    [forward, exit] = await Promise.all([installHost(cp, admin, world.forward), installHost(cp, admin, world.exit)]);
    for (const host of [exit, forward]) await untilInSync(admin, host.id);
    const key = testReleaseKey(world.lab);
    const stateSchema = { writes: STATE_SCHEMA.writes + 1, reads: 1 };
    await buildAgent({ out, key, version: "0.2.0" });
    await buildAgent({ out, key, version: "0.2.1" });
    await buildAgent({ out, key, version: "0.3.0-crashing", entry: `${TESTING}/crashing.ts`, stateSchema });
    for (const name of ["hanging", "linkless", "ackless"])
      await buildAgent({ out, key, version: `0.3.0-${name}`, entry: `${TESTING}/${name}.ts` });
    await buildAgent({ out, key, version: "0.4.0", entry: `${TESTING}/newer-form.ts`, stateSchema });
    await runLine(world, forward.id);
  });
});
afterAll(() => world?.lab.close());

/** A test whose failure carries every log of the lab and both agents' last words. */
function check(name: string, body: () => Promise<void>): void {
  test(name, () =>
    world.lab.explain(async () => {
      try {
        await body();
      } catch (error) {
        const words = await Promise.all(
          [exit, forward].map(async ({ container }) => {
            const up = readdirSync(container.path(UP)).map(
              (file) => `${file}: ${file.endsWith("mjs") ? "" : readIn(container, `${UP}/${file}`)}`,
            );
            return `${await container.journal(UNIT, 40)}\n${up.join("\n")}`;
          }),
        );
        throw new Error(`${error instanceof Error ? error.message : error}\n${words.join("---\n")}`, { cause: error });
      }
    }),
  );
}

const readIn = (container: Container, path: string) => {
  try {
    return readFileSync(container.path(path), "utf8");
  } catch {
    return "";
  }
};
const there = (container: Container, path: string) => existsSync(container.path(path));
const versionIn = (container: Container) =>
  readlinkSync(container.path("/opt/trunkline/current")).replace("versions/", "");
const formIn = (container: Container) => JSON.parse(readIn(container, "/var/lib/trunkline/schema.json")).stateSchema;

/** An operator sets a version for some hosts, with nothing to wait for between canaries and others. */
const start = (hosts: InstalledHost[], version: string, more: Record<string, unknown> = {}): Promise<Answer> =>
  world.admin.post("/rollouts", { version, target: { hostIds: hosts.map(({ id }) => id) }, soakS: 0, ...more });

/** Waits until a rollout stands, and answers it with what became of each host. */
async function ended({ id }: Answer): Promise<{ rollout: Answer; parts: Answer[] }> {
  const rollout = await poll(
    async () => {
      const seen = await world.admin.get(`/rollouts/${id}`);
      return ["done", "halted"].includes(seen.state) && seen.hosts.sent === 0 && seen;
    },
    { what: `rollout ${id} to end`, timeoutMs: 60_000, everyMs: 100 },
  );
  return { rollout, parts: (await world.admin.get(`/rollouts/${id}/hosts`)).items };
}

/** Both run that version, linked and in sync, and nothing of an upgrade is left. */
async function standOn(version: string, hosts: InstalledHost[]): Promise<void> {
  for (const { id, container } of hosts) {
    await untilInSync(world.admin, id);
    expect((await world.admin.get(`/hosts/${id}`)).version).toBe(version);
    expect(versionIn(container)).toBe(version);
    for (const name of ["trial", "request", "staged.mjs", "partial.mjs"])
      expect([name, there(container, `${UP}/${name}`)]).toEqual([name, false]);
    await poll(async () => (await container.show(UNIT, "ActiveState")) === "active", { what: `${id} to be ready` });
  }
}

check("an upgrade: the canary first, then the other; both are committed, and no packet is lost", async () => {
  const pids = async () => [
    await exit.container.show("trunkline-wireguard-tl0.service", "MainPID"),
    (await exit.container.exec(["nft", "-s", "list", "tables"])).stdout,
  ];
  const before = await pids();
  const order: string[] = [];
  const { sent, lost, ms } = await lossDuring(world, async () => {
    const rollout = await start([exit, forward], "0.2.0", { canaryHostIds: [forward.id] });
    const { parts } = await ended(rollout);
    expect(parts.map(({ state, error }) => ({ state, error }))).toEqual([
      { state: "committed", error: null },
      { state: "committed", error: null },
    ]);
    const at = (id: string) => parts.find((part) => part.hostId === id) as Answer;
    order.push(at(forward.id).endedAt, at(exit.id).sentAt);
  });
  say(`upgraded two hosts in ${ms} ms; ${sent} sent, ${lost} lost`);
  expect(lost).toBe(0);
  expect((order[0] ?? "z") <= (order[1] ?? "")).toBe(true);
  await standOn("0.2.0", [exit, forward]);
  expect(await pids()).toEqual(before);
  // What it says of itself is written a moment after it is linked.
  await poll(async () => (await status(exit)).includes("agent 0.2.0"), { what: "the status to name the new version" });
  const events = (await world.admin.get(`/hosts/${exit.id}/events`)).items as Answer[];
  expect(events.map(({ kind }) => kind)).toContain("upgrade_committed");
});

check(
  "what no pinned key signed is refused by the host, whatever the control plane says; so is another file",
  async () => {
    const { releases: out } = world;
    const versions = () => readdirSync(exit.container.path("/opt/trunkline/versions")).sort();
    const before = versions();
    // A control plane in wrong hands: its own key signs, and it names that key itself.
    const stolen = join(world.lab.net.dir, "stolen.key");
    makeReleaseKey(stolen);
    await buildAgent({ out, key: stolen, version: "0.2.9-stolen" });
    await buildAgent({ out, key: testReleaseKey(world.lab), version: "0.2.9-changed" });
    const bundle = join(out, "0.2.9-changed/agent.mjs");
    writeFileSync(bundle, readFileSync(bundle, "utf8").replace("Trunkline", "Evil11ine"));
    for (const [version, code] of [
      ["0.2.9-stolen", "bad_signature"],
      ["0.2.9-changed", "wrong_file"],
    ] as const) {
      const { sent, lost } = await lossDuring(world, async () => {
        const { rollout, parts } = await ended(await start([exit], version));
        expect(rollout.state).toBe("halted");
        expect(rollout.haltReason).toContain(code);
        expect(parts[0]).toMatchObject({ state: "failed", error: expect.stringContaining(code) });
        await world.admin.post(`/rollouts/${rollout.id}/cancel`);
      });
      say(`${version}: refused (${code}); ${sent} sent, ${lost} lost`);
      expect(lost).toBe(0);
    }
    expect(versions()).toEqual(before);
    await standOn("0.2.0", [exit]);
  },
);

check(
  "a version that does not start, and one that hangs, go by themselves; their last words reach the operator",
  async () => {
    const { sent, lost, ms } = await lossDuring(world, async () => {
      const [crashing, hanging] = await Promise.all([
        start([forward], "0.3.0-crashing", { trialS: 30 }),
        start([exit], "0.3.0-hanging", { trialS: 8 }),
      ]);
      const crashed = await ended(crashing);
      expect(crashed.rollout.state).toBe("halted");
      expect(crashed.parts[0]).toMatchObject({
        state: "returned",
        error: expect.stringContaining("started 3 times"),
        lastWords: expect.stringContaining("this version does not start"),
      });
      const hung = await ended(hanging);
      expect(hung.parts[0]).toMatchObject({ state: "returned", error: expect.stringContaining("within 8 s") });
      for (const { rollout } of [crashed, hung]) await world.admin.post(`/rollouts/${rollout.id}/cancel`);
    });
    say(`one crashed, one hung, both back after ${ms} ms; ${sent} sent, ${lost} lost`);
    expect(lost).toBe(0);
    await standOn("0.2.0", [exit, forward]);
    // The one that crashed had written its state in a form that the one before does not read.
    expect(formIn(forward.container)).toBe(STATE_SCHEMA.writes);
    expect(await status(forward)).toMatch(/upgrade +0\.3\.0-crashing was given up: it was started 3 times/);
  },
);

check("a version that never links, and one whose acks never come, go at the deadline", async () => {
  const { sent, lost, ms } = await lossDuring(world, async () => {
    const rollouts = await Promise.all([
      start([forward], "0.3.0-linkless", { trialS: 8 }),
      start([exit], "0.3.0-ackless", { trialS: 8 }),
    ]);
    for (const one of rollouts) {
      const { rollout, parts } = await ended(one);
      expect(rollout.state).toBe("halted");
      expect(parts[0]).toMatchObject({ state: "returned", error: expect.stringContaining("within 8 s") });
      await world.admin.post(`/rollouts/${rollout.id}/cancel`);
    }
  });
  say(`one never linked, one never acked, both back after ${ms} ms; ${sent} sent, ${lost} lost`);
  expect(lost).toBe(0);
  await standOn("0.2.0", [exit, forward]);
});

check(
  "a reboot in the middle of a trial, and a power cut between download and swap: each comes to its right end",
  async () => {
    const good = await start([exit], "0.2.1");
    await poll(() => there(exit.container, `${UP}/request`), { what: "the download", timeoutMs: 20_000, everyMs: 5 });
    const cut = exit.container.powerCut();
    await poll(() => !isOn(exit.container), { what: "the plug to be out", everyMs: 5 });
    expect([there(exit.container, `${UP}/request`), versionIn(exit.container)]).toEqual([true, "0.2.0"]);
    const bad = await start([forward], "0.3.0-linkless", { trialS: 8 });
    await poll(() => there(forward.container, `${UP}/trial`), { what: "the trial", timeoutMs: 20_000 });
    await forward.container.reboot();
    expect(readIn(forward.container, `${UP}/trial`)).toContain("starts=2");
    await cut;
    expect((await ended(good)).parts[0]).toMatchObject({ state: "committed" });
    expect((await ended(bad)).parts[0]).toMatchObject({ state: "returned" });
    await world.admin.post(`/rollouts/${bad.id}/cancel`);
    await standOn("0.2.1", [exit]);
    await standOn("0.2.0", [forward]);
  },
);

check("installed again by hand during a trial, a host waits for its end and is whole", async () => {
  const bad = await start([forward], "0.3.0-linkless", { trialS: 8 });
  await poll(() => there(forward.container, `${UP}/trial`), { what: "the trial", timeoutMs: 20_000 });
  const { code, stdout, stderr } = await runInstaller(forward.container, world.cp);
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toContain("agent 0.3.0-linkless is on trial here");
  expect((await ended(bad)).rollout.state).toBe("halted");
  await standOn("0.4.0", [forward]);
  expect(readdirSync(forward.container.path("/opt/trunkline/versions"))).toEqual(["0.4.0"]);
});

check(
  "a version that can't read the state is refused before anything is fetched; nothing is downgraded silently",
  async () => {
    expect((await ended(await start([exit], "0.4.0"))).rollout.state).toBe("done");
    expect(formIn(exit.container)).toBe(STATE_SCHEMA.writes + 1);
    // Both hosts were off meanwhile: the client's next packets shake hands anew, and are not what is counted here.
    await lossDuring(world, async () => {});
    const { sent, lost } = await lossDuring(world, async () => {
      const { parts } = await ended(await start([exit], "0.2.0", { older: true }));
      expect(parts[0]).toMatchObject({ state: "failed", error: expect.stringContaining("state_form") });
    });
    say(`a downgrade that could not read the state: refused; ${sent} sent, ${lost} lost`);
    expect(lost).toBe(0);
    await standOn("0.4.0", [exit]);
  },
);

async function status({ container }: InstalledHost): Promise<string> {
  return (await container.exec(["/usr/local/sbin/trunkline-agent", "status"])).stdout;
}

function isOn(container: Container): boolean {
  try {
    return container.pid > 0;
  } catch {
    return false;
  }
}
