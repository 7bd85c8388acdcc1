import { afterAll, beforeAll, expect, test } from "vitest";
import type { Api } from "./api.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { createLab, type Lab, type LabHost } from "./lab.ts";
import { poll } from "./poll.ts";
import { type EnrolledHost, enrolHost, putCatalogue, signInAsAdmin, untilInSync } from "./stage.ts";

/** A host whose direct way to the control plane is a black hole: its link goes through a forward host of its private network. */

const say = (text: string) => process.stdout.write(`${text}\n`);

let lab: Lab;
let cp: ControlPlane;
let admin: Api;
let forward: EnrolledHost;
let exit: EnrolledHost;

beforeAll(async () => {
  lab = await createLab({ exits: 1, purpose: "link ways test" });
  await lab.explain(async () => {
    cp = await startControlPlane(lab, { env: { HOST: "0.0.0.0", DATA_DIR: `${lab.cp.dir}/data` } });
    admin = await signInAsAdmin(lab, cp);
    await putCatalogue(admin);
    forward = await enrolHost(lab, cp, admin, lab.forwards[0] as LabHost);
    exit = await enrolHost(lab, cp, admin, lab.exits[0] as LabHost);
    await untilInSync(admin, forward.id);
  });
});

afterAll(async () => {
  await lab?.close();
});

const nft = (argv: string) => exit.host.ns.exec(["nft", ...argv.split(" ")]);

/** Packets between the exit and the control plane vanish, without a word to either. */
async function blackHole(): Promise<void> {
  await nft("add table inet blocked");
  for (const [hook, side] of [
    ["output", "daddr"],
    ["input", "saddr"],
  ]) {
    await nft(`add chain inet blocked ${hook} { type filter hook ${hook} priority 0 ; }`);
    await nft(`add rule inet blocked ${hook} ip ${side} ${lab.cp.address} counter drop`);
  }
}

const linkOf = async () => (await admin.get(`/hosts/${exit.id}`)).link;
const until = (what: string, is: (link: { online: boolean; via: string | null }) => boolean) =>
  poll(async () => is(await linkOf()), { what, timeoutMs: 120_000, everyMs: 100 });

test("a blocked exit links again through its forward host, changes reach it there, and the direct way is taken again", () =>
  lab.explain(async () => {
    expect(await linkOf()).toMatchObject({ online: true, via: null });
    await blackHole();
    const from = performance.now();
    await until("the exit to be linked through the forward host", (link) => link.online && link.via === forward.id);
    say(
      `linked again through the forward host ${Math.round((performance.now() - from) / 1000)} s after the direct way was a black hole`,
    );

    const asked = performance.now();
    await admin.patch(`/hosts/${exit.id}`, { wireguardPort: 51_900 });
    await untilInSync(admin, exit.id);
    say(`a change reached it there and was verified after ${Math.round(performance.now() - asked)} ms`);

    // An agent that starts anew knows the way from its disk: nobody could tell it.
    await exit.agent.kill9();
    await until("the exit to be gone", (link) => !link.online);
    const restarted = performance.now();
    exit.agent.start();
    await until("the restarted exit to be linked", (link) => link.online && link.via === forward.id);
    say(
      `a restarted agent was linked through the forward host after ${Math.round((performance.now() - restarted) / 1000)} s`,
    );

    // The way stays what it is while it works; once somebody ends it, the direct one comes first.
    await nft("delete table inet blocked");
    await forward.agent.kill9();
    forward.agent.start();
    await until("the exit to be linked directly", (link) => link.online && link.via === null);
    await untilInSync(admin, exit.id);
  }));

test("the pass-through lets in hosts it knows, and leads to the control plane only", () =>
  lab.explain(async () => {
    const { privateAddress, address } = forward.host;
    const get = (host: LabHost, url: string) =>
      host.ns.exec(["curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]).then(
        ({ stdout }) => stdout,
        () => "refused",
      );
    // The forward host's agent was restarted just now.
    await poll(async () => (await get(exit.host, `http://${privateAddress}:51822/readyz`)) === "200", {
      ...{ what: "the pass-through to answer", timeoutMs: 30_000, everyMs: 200 },
    });
    const stranger = lab.clients[0] as LabHost;
    expect(await get(stranger, `http://${address}:51822/readyz`)).toBe("refused");
    // Named as another site in the request, it is still the control plane that answers.
    const { stdout } = await exit.host.ns.exec([
      ...["curl", "-sS", "-m", "5", "-x", `http://${privateAddress}:51822`, "http://192.0.2.80/readyz"],
    ]);
    expect(JSON.stringify(stdout)).not.toContain(exit.host.address);
  }));
