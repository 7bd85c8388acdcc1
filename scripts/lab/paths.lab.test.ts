import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Answer, Api } from "./api.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { createLab, type Lab, type LabHost } from "./lab.ts";
import { poll } from "./poll.ts";
import { type EnrolledHost, enrolHost, putCatalogue, signInAsAdmin, untilInSync } from "./stage.ts";

let lab: Lab;
let cp: ControlPlane;
let admin: Api;
let boarding: EnrolledHost;
let forward: EnrolledHost;

beforeAll(async () => {
  lab = await createLab({ clients: 0, exits: 0, purpose: "path probes test" });
  await lab.explain(async () => {
    cp = await startControlPlane(lab, { env: { HOST: "0.0.0.0", DATA_DIR: `${lab.cp.dir}/data` } });
    admin = await signInAsAdmin(lab, cp);
    await putCatalogue(admin);
    boarding = await enrolHost(lab, cp, admin, lab.boardings[0] as LabHost);
    forward = await enrolHost(lab, cp, admin, lab.forwards[0] as LabHost);
    await admin.post("/pairs", { boardingHostId: boarding.id, forwardHostId: forward.id });
    await untilInSync(admin, boarding.id);
    const file = boarding.agent.configFile;
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), probeSeconds: 1 }));
    await boarding.agent.restart();
  });
});
afterAll(() => lab?.close());

const path = async (): Promise<Answer> => (await admin.get(`/hosts/${boarding.id}`)).path;
const until = (state: string) =>
  poll(async () => (await path()).state === state && path(), {
    what: `the path to be ${state}`,
    timeoutMs: 90_000,
    everyMs: 200,
  });
const alarms = async (): Promise<string[]> => {
  const { items } = await admin.get(`/hosts/${boarding.id}/events?limit=200`);
  return items.map((event: Answer) => event.kind).filter((kind: string) => kind.startsWith("path_"));
};
/** Rounds that the series holds. */
const rounds = async (): Promise<Answer> => {
  const { items } = await admin.get(`/hosts/${boarding.id}/paths?target=${forward.host.address}&hours=1`);
  const sum = (of: string) => items.reduce((n: number, item: Answer) => n + item[of], 0);
  return { rounds: sum("rounds"), sent: sum("sent"), received: sum("received") };
};

test("packets dropped between two hosts raise an alarm after three bad rounds, and good ones clear it after five", () =>
  lab.explain(async () => {
    const good = await until("good");
    expect(good.segments).toMatchObject([
      { target: forward.host.address, toHostId: forward.id, last: { received: 5 } },
    ]);
    expect(good.segments[0].last.p50Ms).toBeGreaterThan(0);

    const before = await rounds();
    // Every second packet on the way from boarding to forward, as a bad route would.
    await lab.inet.exec(["nft", "add", "table", "ip", "lossy"]);
    await lab.inet.exec(["nft", "add", "chain", "ip", "lossy", "passing", "{ type filter hook forward priority 0; }"]);
    const from = ["ip", "saddr", boarding.host.address, "ip", "daddr", forward.host.address];
    await lab.inet.exec([
      "nft",
      "add",
      "rule",
      "ip",
      "lossy",
      "passing",
      ...from,
      "numgen",
      "inc",
      "mod",
      "2",
      "0",
      "drop",
    ]);
    const bad = await until("degraded");
    const raised = await rounds();
    expect(raised.rounds - before.rounds).toBeGreaterThanOrEqual(3);
    expect(bad.segments[0].last.received).toBeLessThan(5);
    expect(await alarms()).toEqual(["path_degraded"]);

    await lab.inet.exec(["nft", "delete", "table", "ip", "lossy"]);
    await until("good");
    expect((await rounds()).rounds - raised.rounds).toBeGreaterThanOrEqual(5);
    expect(await alarms()).toEqual(["path_recovered", "path_degraded"]);
    // The other end sends to nobody yet, and probes nobody.
    expect((await admin.get(`/hosts/${forward.id}`)).path.segments).toEqual([]);
  }));
