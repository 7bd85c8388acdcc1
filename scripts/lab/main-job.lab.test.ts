import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Answer, Api } from "./api.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { echoStream } from "./echo-stream.ts";
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
import { httpGet } from "./traffic.ts";
import { type ClientTunnel, connectTunnel } from "./wireguard-client.ts";

/** How many UDP ports the only pair has: with one, a port that is freed must be handed out again. */
const ONE_PORT = 1;

/** Figures worth reading in a test's output. */
const say = (text: string) => process.stdout.write(`${text}\n`);

let lab: Lab;
let cp: ControlPlane;
let admin: Api;
let boarding: EnrolledHost;
let forward: EnrolledHost;
let exits: EnrolledHost[];
let lines: { id: string; eip: string; token: string }[];

const [client, other] = [() => lab.clients[0] as LabHost, () => lab.clients[1] as LabHost];

beforeAll(async () => {
  lab = await createLab({ exits: 2, purpose: "main job test" });
  await lab.explain(async () => {
    cp = await startControlPlane(lab, {
      env: { HOST: "0.0.0.0", DATA_DIR: `${lab.cp.dir}/data`, PORT_QUARANTINE_S: "0" },
    });
    admin = await signInAsAdmin(lab, cp);
    await putCatalogue(admin);
    boarding = await enrolHost(lab, cp, admin, lab.boardings[0] as LabHost);
    forward = await enrolHost(lab, cp, admin, lab.forwards[0] as LabHost);
    exits = [];
    for (const host of lab.exits) exits.push(await enrolHost(lab, cp, admin, host));
    await admin.post("/pairs", { boardingHostId: boarding.id, forwardHostId: forward.id, maxLoad: ONE_PORT });
    await untilInSync(admin, boarding.id);
    const { api } = await makeCustomer(admin, "mei");
    const { order } = await orderLine(api, 2);
    lines = [];
    for (const line of await untilCompleted(api, order.id)) {
      const { token } = await api.post(`/lines/${line.id}/tokens`, { name: "test" });
      lines.push({ id: line.id, eip: line.eip, token });
    }
  });
});

afterAll(async () => {
  await lab?.close();
});

/** Opens a line and brings a client's tunnel up on it. The fixed source port makes every tunnel of a test one and the same flow. */
async function connect(line: number, host: LabHost = client()): Promise<{ id: string; tunnel: ClientTunnel }> {
  const opened = await openLine(cp.localUrl, lines[line]?.token ?? "");
  const conf = opened.conf.replace("[Interface]", "[Interface]\nListenPort = 40000");
  return { id: opened.id, tunnel: await connectTunnel(lab, host, conf) };
}

async function close(line: number, connectionId: string): Promise<Answer> {
  return new Api(cp.localUrl, lines[line]?.token).delete(`/connections/${connectionId}?waitMs=5000`);
}

async function seenAs(host: LabHost = client()): Promise<string> {
  return (await httpGet(host, `http://${WEB_LISTED}/`)).body.trim();
}

function check(name: string, body: () => Promise<void>): void {
  test(name, () => lab.explain(body));
}

describe("a connection's flows", () => {
  check("stop at once after close, and the freed port's old flow follows the next line to its exit", async () => {
    const first = await connect(0);
    const stream = echoStream(client(), WEB_LISTED);
    await stream.answers();
    expect(await seenAs()).toBe(lines[0]?.eip);
    const askedAt = Date.now();
    await close(0, first.id);
    const stoppedAfter = (await stream.untilQuiet()) - askedAt;
    say(`traffic stopped ${Math.max(0, Math.round(stoppedAfter))} ms after close was asked for`);
    expect(stoppedAfter).toBeLessThan(1000);
    await stream.stop();

    // The old client keeps sending to the freed port: nothing of it may come back while another has the port.
    await first.tunnel.down();
    const second = await connect(1);
    expect(await seenAs()).toBe(lines[1]?.eip);
    await close(1, second.id);
    await second.tunnel.down();
  });

  check("belong to the newest connection: a second client's open stops the first one's", async () => {
    const first = await connect(0);
    const stream = echoStream(client(), WEB_LISTED);
    await stream.answers();
    const second = await connect(0, other());
    expect(await seenAs(other())).toBe(lines[0]?.eip);
    await stream.untilQuiet();
    const { items } = await admin.get(`/lines/${lines[0]?.id}/connections`);
    expect(items.find((c: Answer) => c.id === first.id).closeReason).toBe("replaced");
    await stream.stop();
    await close(0, second.id);
    await first.tunnel.down();
    await second.tunnel.down();
  });
});

describe("the data path does not notice", () => {
  let connected: Awaited<ReturnType<typeof connect>>;
  beforeAll(async () => {
    connected = await lab.explain(() => connect(0));
  });
  afterAll(async () => {
    await connected.tunnel.down();
  });

  check("an agent that is killed (-9) and started again, on any of the three hosts", async () => {
    for (const victim of [boarding, forward, exits.find((e) => e.host.address === lines[0]?.eip)]) {
      if (victim === undefined) throw new Error("no such exit");
      const stream = echoStream(client(), WEB_LISTED, 5);
      await stream.answers();
      await victim.agent.kill9();
      const since = Date.now();
      victim.agent.start();
      await untilInSync(admin, victim.id, { since, timeoutMs: 60_000 });
      await stream.answers();
      const { sent, lost } = await stream.stop();
      say(`${victim.host.name}: agent killed and restarted, ${sent} echo requests, ${lost} lost`);
      expect(lost).toBe(0);
    }
  });

  check("the control plane killed (-9); when it returns the hosts join again and it knows the true state", async () => {
    const stream = echoStream(client(), WEB_LISTED, 5);
    await stream.answers();
    await cp.kill9();
    await stream.answers();
    const since = Date.now();
    await cp.start();
    for (const host of [boarding, forward, ...exits]) {
      const state = await untilInSync(admin, host.id, { since, timeoutMs: 90_000 });
      expect(state.state).toBe("online");
    }
    const { items } = await admin.get(`/lines/${lines[0]?.id}/connections?limit=1`);
    expect(items[0]).toMatchObject({ id: connected.id, state: "active" });
    const { sent, lost } = await stream.stop();
    say(`control plane killed and restarted, ${sent} echo requests, ${lost} lost`);
    expect(lost).toBe(0);
  });
});

describe("a hand-made change on a host is repaired and reported", () => {
  let connected: Awaited<ReturnType<typeof connect>>;
  beforeAll(async () => {
    connected = await lab.explain(() => connect(0));
  });
  afterAll(async () => {
    await connected.tunnel.down();
  });

  async function repaired(host: EnrolledHost, sabotage: string[][]): Promise<void> {
    const before = (await admin.get(`/hosts/${host.id}/events?limit=200`)).items.length;
    for (const argv of sabotage) await host.host.ns.exec(argv);
    const event: Answer = await poll(
      async () => {
        const { items } = await admin.get(`/hosts/${host.id}/events?limit=200`);
        return items.length > before && items.find((e: Answer) => e.kind === "drift_repaired");
      },
      { what: `${host.host.name} to report the repair`, timeoutMs: 60_000, everyMs: 250 },
    );
    say(`${host.host.name}: ${event.detail}`);
    await poll(async () => (await seenAs()) === lines[0]?.eip, { what: "traffic to flow again", timeoutMs: 30_000 });
  }

  check("nft tables deleted on boarding and forward", async () => {
    for (const host of [boarding, forward]) await repaired(host, [["nft", "flush", "ruleset"]]);
  });

  check("the WireGuard peer removed on the exit, its whitelist opened to the world", async () => {
    const exit = exits.find((e) => e.host.address === lines[0]?.eip);
    if (exit === undefined) throw new Error("no such exit");
    const { stdout } = await exit.host.ns.exec(["wg", "show", "tl0", "peers"]);
    await repaired(exit, [["wg", "set", "tl0", "peer", stdout.trim(), "remove"]]);
    await repaired(exit, [["nft", "add", "element", "ip", "trunkline_exit", "wl4_tl0", "{ 192.0.2.81/32 }"]]);
    const { stdout: set } = await exit.host.ns.exec(["nft", "list", "set", "ip", "trunkline_exit", "wl4_tl0"]);
    expect(set).not.toContain("192.0.2.81");
  });
});

describe("operators", () => {
  check("edit a whitelist, and a removed site's running traffic is cut while others go on", async () => {
    const { tunnel } = await connect(0);
    const stream = echoStream(client(), WEB_LISTED);
    await stream.answers();
    await admin.put(`/service-types/${SERVICE_TYPE}`, { name: "Sites", cidrs: ["192.0.2.81/32"] });
    await stream.untilQuiet();
    expect((await httpGet(client(), "http://192.0.2.81/")).body.trim()).toBe(lines[0]?.eip);
    await admin.put(`/service-types/${SERVICE_TYPE}`, { name: "Sites", cidrs: [`${WEB_LISTED}/32`] });
    await stream.answers();
    await stream.stop();
    await tunnel.down();
  });
});

describe("a line's use", () => {
  /** Over all days: a test that runs over midnight in Shanghai is right too. */
  async function usedSoFar() {
    const { items } = await admin.get(`/lines/${lines[0]?.id}/usage`);
    const sum = (name: string): number => items.reduce((n: number, day: Answer) => n + day[name], 0);
    return { up: sum("upBytes"), down: sum("downBytes"), denied: sum("deniedPackets") };
  }

  check(
    "is what its exit's peers moved, over a killed agent and a replaced connection, and shows its client",
    async () => {
      const exit = exits.find((e) => e.host.address === lines[0]?.eip);
      if (exit === undefined) throw new Error("no such exit");
      /** What the peer on the exit has counted: received from the client, sent to it. */
      const transfer = async () => {
        const { stdout } = await exit.host.ns.exec(["wg", "show", "tl0", "transfer"]);
        const [, rx = 0, tx = 0] = stdout.trim().split("\t").map(Number);
        return { rx, tx };
      };
      const download = async (host: LabHost, bytes: number) => {
        const got = await httpGet(host, `http://${WEB_LISTED}/bytes/${bytes}`, {
          discardBody: true,
          timeoutMs: 60_000,
        });
        expect(got.bytes).toBe(bytes);
      };
      const startedAt = Date.now();
      const first = await connect(0);
      const before = await usedSoFar();
      await download(client(), 20_000_000);
      await exit.agent.kill9();
      await download(client(), 10_000_000);
      exit.agent.start();
      await untilInSync(admin, exit.id, { since: Date.now(), timeoutMs: 60_000 });
      await httpGet(client(), "http://192.0.2.81/", { timeoutMs: 2_000 });
      // Replaced right after it moved something: nobody has looked since, but for the driver that removes it.
      await download(client(), 10_000_000);
      const old = await transfer();
      const second = await connect(0, other());
      await download(other(), 5_000_000);
      const now = await transfer();
      expect(now.tx).toBeLessThan(old.tx);
      const moved = { up: old.rx + now.rx, down: old.tx + now.tx };
      const all = await poll(
        async () => {
          const so = await usedSoFar();
          return so.down - before.down >= moved.down ? so : undefined;
        },
        { what: `${moved.down} bytes in the line's use`, timeoutMs: 60_000, everyMs: 250 },
      );
      const used = { up: all.up - before.up, down: all.down - before.down, denied: all.denied - before.denied };
      say(`line's use: ${used.down} bytes down of ${moved.down} on the exit's peers, ${used.up} up of ${moved.up}`);
      expect(moved.down).toBeGreaterThan(45_000_000);
      // Keepalives and what the old client still had under way came after the peers were read.
      expect(used.down / moved.down).toBeLessThan(1.02);
      expect(used.up / moved.up).toBeGreaterThan(0.98);
      expect(used.up / moved.up).toBeLessThan(1.02);
      expect(used.denied).toBeGreaterThan(0);
      const line = await admin.get(`/lines/${lines[0]?.id}`);
      expect(Date.parse(line.clientLastSeenAt)).toBeGreaterThan(startedAt - 2_000);
      expect(line.connection).toMatchObject({ id: second.id });
      expect(line.connection.downBytes).toBeGreaterThan(5_000_000);
      expect(line.connection.downBytes).toBeLessThan(8_000_000);
      await first.tunnel.down();
      await second.tunnel.down();
    },
  );
});

describe("without a control plane", () => {
  check("rebooted hosts carry traffic again from their last good state", async () => {
    const { tunnel } = await connect(0);
    expect(await seenAs()).toBe(lines[0]?.eip);
    await cp.kill9();
    for (const { agent } of [boarding, forward, ...exits]) {
      await agent.kill9();
      await agent.rebootHost();
    }
    await poll(async () => (await seenAs()) === lines[0]?.eip, {
      what: "traffic through the rebooted hosts",
      timeoutMs: 60_000,
      everyMs: 200,
    });
    const since = Date.now();
    await cp.start();
    for (const host of [boarding, forward, ...exits]) await untilInSync(admin, host.id, { since, timeoutMs: 90_000 });
    await tunnel.down();
  });
});
