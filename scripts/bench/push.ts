import { generateKeyPairSync } from "node:crypto";
import { Api } from "../lab/api.ts";
import { type ControlPlane, startControlPlane } from "../lab/control-plane.ts";
import { createLab, type Lab, type LabHost } from "../lab/lab.ts";
import { poll } from "../lab/poll.ts";
import {
  enrolHost,
  makeCustomer,
  orderLine,
  putCatalogue,
  signInAsAdmin,
  untilCompleted,
  untilInSync,
} from "../lab/stage.ts";
import type { Numbers } from "./arguments.ts";
import { needOpenSsh, type OldWay, startOldWay } from "./old-way.ts";
import { buildRelease, type Release } from "./release.ts";
import type { Report } from "./report.ts";
import { median, percentile } from "./statistics.ts";

/** What a new connection costs besides the way there and back, at most. */
const OVER_ROUND_TRIP_MS = 60;
const ROUND_TRIPS_MS = [0, 150];
const LINK_PORT = 8788;
const SSH_PORTS = { exit: 2201, forward: 2202 };

/** How long it takes to open a connection, ours and the old way in turn, near and far. */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { rounds = 20 } = numbers;
  needOpenSsh();
  report.progress("a lab with a control plane, three agents, a line; two sshd");
  const release = await buildRelease();
  await using lab = await createLab({ purpose: "bench push", clients: 0 });
  lab.onClose(async () => release.remove());
  await lab.explain(async () => {
    const [boarding, forward, exit] = [lab.boardings[0], lab.forwards[0], lab.exits[0]] as [LabHost, LabHost, LabHost];
    const setDelay = await startDelayProxy(lab, exit, forward);
    const cp = await startControlPlane(lab, {
      env: { HOST: "0.0.0.0", DATA_DIR: `${lab.cp.dir}/data`, PORT_QUARANTINE_S: "0" },
    });
    const lineToken = await sellLine(lab, cp, { boarding, forward, exit }, release);
    const oldWay = await startOldWay(lab, exit, forward);
    for (const roundTripMs of ROUND_TRIPS_MS) {
      await setDelay(roundTripMs / 2);
      await measure(report, cp, lineToken, oldWay, { roundTripMs, rounds });
    }
  });
}

/** The proxy on `cp`: hosts' links to the control plane, and the control plane's SSH to hosts. Answers how to set its delay. */
async function startDelayProxy(
  lab: Lab,
  exit: LabHost,
  forward: LabHost,
): Promise<(oneWayMs: number) => Promise<void>> {
  const ways = [
    [LINK_PORT, "127.0.0.1", 8787],
    [SSH_PORTS.exit, exit.address, 22],
    [SSH_PORTS.forward, forward.address, 22],
  ];
  const program = `${import.meta.dirname}/delay-proxy.ts`;
  const child = lab.cp.ns.spawn([process.execPath, program, ...ways.flat().map(String)], { stdin: "pipe" });
  if (!child.stdout || !child.stdin) throw new Error("no pipe to the delay proxy");
  child.stderr?.resume();
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const lines = (start: string) => said.split("\n").filter((line) => line.startsWith(start)).length;
  await poll(() => lines("listening ") === ways.length, { what: "the delay proxy to listen" });
  return async (oneWayMs) => {
    const before = lines("delay ");
    child.stdin?.write(`${oneWayMs}\n`);
    await poll(() => lines("delay ") > before, { what: "the delay proxy to obey" });
  };
}

async function sellLine(
  lab: Lab,
  cp: ControlPlane,
  hosts: { boarding: LabHost; forward: LabHost; exit: LabHost },
  { argv }: Release,
): Promise<string> {
  const admin = await signInAsAdmin(lab, cp);
  await putCatalogue(admin);
  const delayed = { ...cp, url: `http://${lab.cp.address}:${LINK_PORT}` };
  const boarding = await enrolHost(lab, delayed, admin, hosts.boarding, { argv });
  const forward = await enrolHost(lab, delayed, admin, hosts.forward, { argv });
  await enrolHost(lab, delayed, admin, hosts.exit, { argv });
  await admin.post("/pairs", { boardingHostId: boarding.id, forwardHostId: forward.id });
  await untilInSync(admin, boarding.id);
  const { api: customer } = await makeCustomer(admin, "mei");
  const { order } = await orderLine(customer);
  const [line] = await untilCompleted(customer, order.id);
  return (await customer.post(`/lines/${line.id}/tokens`, { name: "bench" })).token;
}

async function measure(
  report: Report,
  cp: ControlPlane,
  lineToken: string,
  oldWay: OldWay,
  { roundTripMs, rounds }: { roundTripMs: number; rounds: number },
): Promise<void> {
  const api = new Api(cp.localUrl, lineToken);
  const ours: number[] = [];
  const theirs: number[] = [];
  let before: { peer: string; port: number } | undefined;
  // The first round warms up both sides and is not counted.
  for (let round = 0; round <= rounds; round++) {
    if (round % 5 === 0) report.progress(`${roundTripMs} ms round trip: ${round} of ${rounds} rounds`);
    const clientPublicKey = freshKey();
    const from = performance.now();
    const opened = await api.post("/connections?waitMs=10000", { clientPublicKey });
    const took = performance.now() - from;
    if (!opened.ready.forward || !opened.ready.exit) throw new Error(`not ready: ${JSON.stringify(opened.ready)}`);
    const next = { peer: freshKey(), port: 40_000 + (round % 200) };
    const change = { oldPeer: before?.peer, newPeer: next.peer, oldPort: before?.port, newPort: next.port };
    const fromOld = performance.now();
    await oldWay.open(SSH_PORTS, change);
    const tookOld = performance.now() - fromOld;
    before = next;
    if (round === 0) continue;
    ours.push(took);
    theirs.push(tookOld);
  }
  // The next delay begins without the peer and the port of this one.
  const last = { oldPeer: before?.peer, newPeer: freshKey(), oldPort: before?.port, newPort: 39_999 };
  await oldWay.open(SSH_PORTS, last);
  const name = `open, ${roundTripMs} ms round trip`;
  const value = median(ours);
  report.add({
    metric: `${name}, p50`,
    value,
    unit: "ms",
    baseline: median(theirs),
    compare: "faster",
    target: { of: "ratio", atLeast: roundTripMs === 0 ? 5 : 10 },
  });
  report.add({
    metric: `${name}, over the round trip`,
    value: value - roundTripMs,
    unit: "ms",
    target: { of: "value", atMost: OVER_ROUND_TRIP_MS },
  });
  report.add({
    metric: `${name}, p95`,
    value: percentile(ours, 95),
    unit: "ms",
    baseline: percentile(theirs, 95),
    compare: "faster",
  });
}

/** A WireGuard client's public key. */
function freshKey(): string {
  const { x = "" } = generateKeyPairSync("x25519").publicKey.export({ format: "jwk" });
  return Buffer.from(x, "base64url").toString("base64");
}
