import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { Api } from "./lab/api.ts";
import { type ControlPlane, startControlPlane } from "./lab/control-plane.ts";
import { echoStream } from "./lab/echo-stream.ts";
import { createLab, type Lab, type LabHost, WEB_LISTED, WEB_UNLISTED } from "./lab/lab.ts";
import { poll } from "./lab/poll.ts";
import { startPublicBytes } from "./lab/public-bytes.ts";
import {
  enrolHost,
  makeCustomer,
  openLine,
  orderLine,
  putCatalogue,
  signInAsAdmin,
  untilCompleted,
  untilInSync,
} from "./lab/stage.ts";
import { httpGet, iperf } from "./lab/traffic.ts";
import { connectTunnel } from "./lab/wireguard-client.ts";

const HELP = `Usage: npm run demo [-- --json] [-- --keep]

The main job on one machine, as root: a small internet in network namespaces, the embedded control plane, three agents;
an operator, a customer and a real WireGuard client. Everything goes over the public HTTP API.

  --json   print one JSON object as the last line
  --keep   leave everything running, and say how to reach it, until Ctrl-C
`;

/** What the demo measured. The shape is promised: scripts read the last line of --json. */
type Result = {
  ok: boolean;
  eip: string;
  addressSeen: string;
  openMs: number;
  throughputMbps: number;
  pingP50Ms: number;
  pingLossPct: number;
  blockedRefused: boolean;
  capturePackets: number;
  captureBytes: number;
  captureBytesOnPublic: number;
  closedAfterMs: number;
  replacedOldStopped: boolean;
};

const say = (text: string) => process.stdout.write(`${text}\n`);
const startedAt = performance.now();
let stepNumber = 0;
const STEPS = 14;

/** Runs one step: shows it, and then what came of it and how long it took. */
async function step<T>(what: string, fn: () => Promise<T>, outcome?: (value: T) => string): Promise<T> {
  stepNumber++;
  const label = `${String(stepNumber).padStart(2)}/${STEPS} ${what}`;
  const live = process.stdout.isTTY;
  if (live) process.stdout.write(`${label} …`);
  const from = performance.now();
  const value = await fn();
  const ms = `${Math.round(performance.now() - from)} ms`.padStart(9);
  const line = `${ms}  ${label}${outcome === undefined ? "" : `: ${outcome(value)}`}`;
  say(live ? `\r\x1b[K${line}` : line);
  return value;
}

async function perform(lab: Lab, cp: ControlPlane): Promise<Result> {
  const [client1, client2] = lab.clients as [LabHost, LabHost];
  const [boarding, forward, exit] = [lab.boardings[0], lab.forwards[0], lab.exits[0]] as [LabHost, LabHost, LabHost];

  const admin = await step("operator signs in with the one-time password", () => signInAsAdmin(lab, cp));
  await step("operator puts the catalogue and a whitelist in place", () => putCatalogue(admin));
  const hosts = await step(
    "three agents enrol, are let in and linked",
    async () => ({
      boarding: await enrolHost(lab, cp, admin, boarding),
      forward: await enrolHost(lab, cp, admin, forward),
      exit: await enrolHost(lab, cp, admin, exit),
    }),
    (h) => `${h.boarding.id}, ${h.forward.id}, ${h.exit.id}`,
  );
  await step("operator pairs boarding and forward, ports 30000 to 30199", async () => {
    await admin.post("/pairs", { boardingHostId: hosts.boarding.id, forwardHostId: hosts.forward.id });
    await untilInSync(admin, hosts.boarding.id);
  });
  const { api: customer } = await step("customer is made, certified and credited", () => makeCustomer(admin, "mei"));
  const { line, lineToken } = await step(
    "customer quotes, orders and pays from the wallet; the line is provisioned",
    async () => {
      const { order } = await orderLine(customer);
      const [line] = await untilCompleted(customer, order.id);
      const { token: lineToken } = await customer.post(`/lines/${line.id}/tokens`, { name: "phone" });
      return { line, lineToken };
    },
    ({ line: l }) => `${l.id} with ${l.eip}`,
  );

  const from = performance.now();
  const opened = await step(
    "client opens a connection and waits until its hosts hold it",
    () => openLine(cp.localUrl, lineToken),
    (c) => `port ${c.port}`,
  );
  const openMs = Math.round(performance.now() - from);

  // Both sites answer on the open internet: what is refused below is refused by the whitelist.
  for (const site of [WEB_LISTED, WEB_UNLISTED])
    if (!(await httpGet(client1, `http://${site}/`)).ok) throw new Error(`the lab's site ${site} does not answer`);
  const tunnel1 = await connectTunnel(lab, client1, opened.conf);
  const seen = await step(
    "WireGuard client reaches the internet from the exit's address",
    async () => {
      const listed = await httpGet(client1, `http://${WEB_LISTED}/`);
      const unlisted = await httpGet(client1, `http://${WEB_UNLISTED}/`, { timeoutMs: 4000 });
      return {
        address: listed.body.trim(),
        // Refused at once, not left to time out.
        refused: unlisted.status === 0 && unlisted.seconds < 3,
      };
    },
    (s) => `seen as ${s.address}; a site off the whitelist is ${s.refused ? "refused" : "NOT refused"}`,
  );
  const { bitsPerSecond } = await step(
    "throughput through the tunnel, 3 s of TCP",
    () => iperf(lab, client1, { seconds: 3 }),
    (t) => `${Math.round(t.bitsPerSecond / 1e6)} Mbit/s`,
  );
  const ping = await step(
    "operator pings the customer from the exit",
    async () => {
      for await (const { event, data } of admin.events(`/lines/${line.id}/pings`, { count: 20, intervalMs: 50 })) {
        if (event === "error") throw new Error(`ping: ${JSON.stringify(data)}`);
        if (event === "result") return data;
      }
      throw new Error("the ping ended without a result");
    },
    (p) => `${p.received} of ${p.sent}, p50 ${p.p50Ms} ms`,
  );
  const capture = await step(
    "operator captures on the exit while the customer downloads",
    () => captureWhileDownloading(lab, admin, line.id, client1, exit, hosts.exit.agent.pid),
    (c) =>
      `${c.packets} packets, ${c.bytes} bytes; public interface: ${c.onPublic} bytes of it, control ${c.control} bytes`,
  );

  const replaced = await step(
    "a second client opens the same line: the first one's traffic stops",
    async () => {
      const old = echoStream(client1, WEB_LISTED);
      await old.answers();
      const second = await openLine(cp.localUrl, lineToken);
      const heldAt = Date.now();
      await connectTunnel(lab, client2, second.conf);
      const lastAt = await old.untilQuiet();
      await old.stop();
      const { body } = await httpGet(client2, `http://${WEB_LISTED}/`);
      return { second, oldStopped: lastAt <= heldAt + 1000 && body.trim() === line.eip };
    },
    (r) => (r.oldStopped ? "stopped" : "NOT stopped"),
  );
  const closedAfterMs = await step(
    "client closes the connection: traffic stops",
    async () => {
      const stream = echoStream(client2, WEB_LISTED);
      await stream.answers();
      const askedAt = Date.now();
      await new Api(cp.localUrl, lineToken).delete(`/connections/${replaced.second.id}?waitMs=5000`);
      const lastAt = await stream.untilQuiet();
      await stream.stop();
      return Math.max(0, Math.round(lastAt - askedAt));
    },
    (ms) => `after ${ms} ms`,
  );
  await tunnel1.down();

  const result: Result = {
    ok: false,
    eip: line.eip,
    addressSeen: seen.address,
    openMs,
    throughputMbps: Math.round(bitsPerSecond / 1e6),
    pingP50Ms: ping.p50Ms,
    pingLossPct: ping.lossPct,
    blockedRefused: seen.refused,
    capturePackets: capture.packets,
    captureBytes: capture.bytes,
    captureBytesOnPublic: capture.onPublic,
    closedAfterMs,
    replacedOldStopped: replaced.oldStopped,
  };
  return { ...result, ok: holds(result) };
}

/** What must be true for the demo to count as passed. */
function holds(r: Result): boolean {
  return (
    r.addressSeen === r.eip &&
    r.blockedRefused &&
    r.capturePackets > 0 &&
    r.captureBytesOnPublic === 0 &&
    r.closedAfterMs < 1000 &&
    r.replacedOldStopped &&
    r.pingLossPct === 0
  );
}

async function captureWhileDownloading(
  lab: Lab,
  admin: Api,
  lineId: string,
  client: LabHost,
  exit: LabHost,
  agentPid: number | undefined,
) {
  const meter = await startPublicBytes(lab, exit, agentPid === undefined ? {} : { agentPid });
  const { id } = await admin.post(`/lines/${lineId}/captures`, {
    seconds: 3,
    reason: "demo: what does a download look like",
  });
  await httpGet(client, `http://${WEB_LISTED}/bytes/20000000`, { discardBody: true, timeoutMs: 20_000 });
  const record = await poll(
    async () => {
      const capture = await admin.get(`/captures/${id}`);
      return capture.state !== "running" && capture;
    },
    { what: "the capture to end", timeoutMs: 30_000, everyMs: 100 },
  );
  if (record.state !== "done") throw new Error(`the capture failed: ${record.error}`);
  const file = Buffer.from(await (await admin.send("GET", `/captures/${id}/file`)).arrayBuffer());
  const sha256 = createHash("sha256").update(file).digest("hex");
  if (sha256 !== record.file.sha256) throw new Error("the downloaded capture is not what was stored");
  const bytes = await meter.stop();
  return { packets: record.packets as number, bytes: file.length, onPublic: bytes.other, control: bytes.control };
}

function showTable(result: Result): void {
  say("\nResult");
  for (const [name, value] of Object.entries(result)) say(`  ${name.padEnd(22)} ${value}`);
  say(`  ${"total".padEnd(22)} ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      json: { type: "boolean", default: false },
      keep: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    say(HELP);
    return 0;
  }
  const lab = await step(
    "the lab stands: 2 clients, boarding, forward, exit, an internet",
    () => createLab({ purpose: "demo" }),
    (l) => `lab ${l.id}`,
  );
  // Ctrl-C takes the lab down like any other end.
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort());
  const gone = new Promise<never>((_, reject) =>
    interrupted.signal.addEventListener("abort", () => reject(new Error("interrupted"))),
  );
  gone.catch(() => {});
  try {
    const cp = await startControlPlane(lab, {
      env: { HOST: "0.0.0.0", DATA_DIR: `${lab.cp.dir}/data`, PUBLIC_URL: `http://${lab.cp.address}:8787` },
    });
    const result = await Promise.race([lab.explain(() => perform(lab, cp)), gone]);
    showTable(result);
    if (values.keep) await keep(lab, cp, gone);
    if (values.json) say(JSON.stringify(result));
    return result.ok ? 0 : 1;
  } finally {
    await lab.close();
  }
}

async function keep(lab: Lab, cp: ControlPlane, gone: Promise<never>): Promise<void> {
  say(`
Everything is left running. Ctrl-C takes it down.
  API            ${cp.localUrl}  (in the lab ${cp.url})
  administrator  admin, its password is in ${lab.logFile("control-plane")}
  customer       mei, password mei-s-password
  logs           ${lab.net.dir}/logs
  on a host      nsenter -t ${lab.exits[0]?.ns.holderPid} -m -n -- wg show     (that is exit1)`);
  const alive = setInterval(() => {}, 60_000);
  await gone.catch(() => {});
  clearInterval(alive);
}

process.exitCode = await main();
