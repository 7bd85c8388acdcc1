import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createLab, type LabHost } from "../lab/lab.ts";
import { poll } from "../lab/poll.ts";
import { exec } from "../lab/process.ts";
import { pingFlood } from "../lab/traffic.ts";
import { connectTunnel } from "../lab/wireguard-client.ts";
import type { Numbers } from "./arguments.ts";
import { ECHO_PORT, LOAD_PORT, ourDriver, type Path, type RelayKind, rulesByHand, socatByHand } from "./relay-kinds.ts";
import type { Report } from "./report.ts";
import { bestGoodput, udpLoad } from "./udp-load.ts";

const MAX_LOSS_PCT = 0.5;
/** Rates offered whatever comes through, Mbit/s. */
const OFFERED = 1500;
const FLOOD = 4000;
/** Floods of a second each, a kind and round. */
const DUELS = 4;
/** Between setting up and flooding. */
const REST_MS = 500;
const ECHO = "10.99.0.1";

/** The best of all rounds: whatever else runs on the machine only takes away. */
const most = (samples: readonly number[]) => Math.max(...samples.filter(Number.isFinite));
const least = (samples: readonly number[]) => Math.min(...samples.filter(Number.isFinite));

type Samples = { goodput: number[]; loss: number[]; flood: number[]; echo: number[]; sent: number[] };

/** UDP through a boarding and a forward host: the agent's driver, socat, rules by hand, in turn, several times. */
export async function run(report: Report, numbers: Numbers): Promise<void> {
  const { seconds = 2, rounds = 3 } = numbers;
  await using lab = await createLab({ purpose: "bench relay", clients: 1 });
  await lab.explain(async () => {
    const [client, boarding, forward, exit] = [lab.clients[0], lab.boardings[0], lab.forwards[0], lab.exits[0]] as [
      LabHost,
      LabHost,
      LabHost,
      LabHost,
    ];
    const path: Path = { lab, boarding, forward, exit };
    await startTargets(path, client);

    const one = ourDriver(1);
    const kinds = [one, rulesByHand, socatByHand, ourDriver(1000)];
    const samples = new Map(
      kinds.map((kind) => [kind, { goodput: [], loss: [], flood: [], echo: [], sent: [] } as Samples]),
    );
    for (let round = 1; round <= rounds; round++)
      for (const kind of round % 2 === 1 ? kinds : [...kinds].reverse()) {
        report.progress(`round ${round} of ${rounds}: ${kind.name}`);
        const down = await kind.up(path);
        await measure(client, path, samples.get(kind) as Samples, kind, seconds);
        await down();
        for (const host of [client, boarding, forward, exit]) await host.ns.exec(["conntrack", "-F"], { check: false });
      }
    // Differences of a few percent show only where the sides change often, and none always comes after the same other.
    for (let duel = 1; duel <= DUELS * rounds; duel++)
      for (const kind of [...kinds.slice(duel % kinds.length), ...kinds.slice(0, duel % kinds.length)]) {
        if (duel % DUELS === 1) report.progress(`flood ${duel} of ${DUELS * rounds}: ${kind.name}`);
        const down = await kind.up(path);
        // What a thousand mappings leave to do when they are loaded, in this process and in the kernel, is not the relay's work.
        await sleep(REST_MS);
        const { goodputMbps } = await udpLoad(client, { address: boarding.address, port: LOAD_PORT.from }, FLOOD, 1);
        samples.get(kind)?.flood.push(goodputMbps);
        await down();
      }
    const of = (kind: RelayKind) => samples.get(kind) as Samples;
    tell(report, of(one), { byHand: of(rulesByHand), socat: of(socatByHand), many: of(kinds[3] as RelayKind) });
  });
}

async function measure(client: LabHost, path: Path, into: Samples, kind: RelayKind, seconds: number): Promise<void> {
  const target = { address: path.boarding.address, port: LOAD_PORT.from };
  const load = (rate: number) => udpLoad(client, target, rate, seconds);
  const last = into.goodput.at(-1) ?? (kind === socatByHand ? 500 : 1000);
  into.goodput.push(await bestGoodput(load, MAX_LOSS_PCT, Number.isNaN(last) ? 300 : last));
  const offered = await load(OFFERED);
  into.loss.push(offered.lostPct);
  into.sent.push(offered.sentMbps);
  const ping = await pingFlood(client, ECHO, { count: 300, intervalMs: 10, args: ["-I", "wg0"] });
  into.echo.push(ping.avgMs ?? Number.NaN);
}

function tell(report: Report, ours: Samples, other: { byHand: Samples; socat: Samples; many: Samples }): void {
  const value = most(ours.goodput);
  const goodput = "goodput at ≤ 0.5% loss";
  report.add({
    metric: `${goodput}, against socat`,
    value,
    unit: "Mbit/s",
    baseline: most(other.socat.goodput),
    target: { of: "ratio", atLeast: 2 },
  });
  report.add({
    metric: `${goodput}, against rules by hand`,
    value,
    unit: "Mbit/s",
    baseline: most(other.byHand.goodput),
    target: { of: "ratio", atLeast: 0.97 },
  });
  const flood = { metric: `goodput at ${FLOOD / 1000} Gbit/s offered`, value: most(ours.flood), unit: "Mbit/s" };
  report.add({ ...flood, metric: `${flood.metric}, against socat`, baseline: most(other.socat.flood) });
  report.add({
    ...flood,
    metric: `${flood.metric}, against rules by hand`,
    baseline: most(other.byHand.flood),
    target: { of: "ratio", atLeast: 0.97 },
  });
  const loss = { metric: "loss at 1.5 Gbit/s offered", value: least(ours.loss), unit: "%" };
  report.add({ ...loss, metric: `${loss.metric}, against socat`, baseline: least(other.socat.loss) });
  report.add({ ...loss, metric: `${loss.metric}, against rules by hand`, baseline: least(other.byHand.loss) });
  report.add({
    metric: "really offered then (the sender shares the cores)",
    value: most(ours.sent),
    unit: "Mbit/s",
    baseline: most(other.socat.sent),
  });
  const echo = { metric: "echo through WireGuard, mean", value: least(ours.echo), unit: "ms" };
  report.add({ ...echo, metric: `${echo.metric}, against socat`, baseline: least(other.socat.echo) });
  report.add({ ...echo, metric: `${echo.metric}, against rules by hand`, baseline: least(other.byHand.echo) });
  report.add({
    metric: "1,000 mappings against 1, goodput at 4 Gbit/s offered",
    value: most(other.many.flood),
    unit: "Mbit/s",
    baseline: most(ours.flood),
    target: { of: "ratio", atLeast: 0.97 },
  });
  report.add({
    metric: "1,000 mappings against 1, echo",
    value: least(other.many.echo),
    unit: "ms",
    baseline: least(ours.echo),
  });
}

/** On the exit: iperf3 (its control connection has a TCP relay of its own) and a WireGuard peer that answers pings. */
async function startTargets({ lab, boarding, exit }: Path, client: LabHost): Promise<void> {
  const logFile = lab.logFile("iperf3");
  exit.ns.spawn(["iperf3", "-s", "-p", `${LOAD_PORT.to}`], { logFile });
  boarding.ns.spawn(["socat", `TCP4-LISTEN:${LOAD_PORT.from},fork,reuseaddr`, `TCP4:${exit.address}:${LOAD_PORT.to}`], {
    logFile,
  });
  const listens = async (host: LabHost, port: number) =>
    (await host.ns.exec(["ss", "-Hltn", `sport = :${port}`])).stdout !== "";
  await poll(() => listens(exit, LOAD_PORT.to), { what: "iperf3" });
  await poll(() => listens(boarding, LOAD_PORT.from), { what: "the relay of iperf3's own connection" });

  const key = async () => (await exec(["wg", "genkey"])).stdout.trim();
  const publicOf = async (secret: string) => (await exec(["wg", "pubkey"], { input: secret })).stdout.trim();
  const [exitKey, clientKey] = [await key(), await key()];
  exit.ns.spawn(["wireguard-go", "-f", "wg9"], { logFile: lab.logFile("wireguard-exit"), env: { LOG_LEVEL: "error" } });
  await poll(() => exit.ns.exists("/run/wireguard/wg9.sock"), { what: "the exit's tunnel" });
  const conf = join(exit.dir, "wg9.conf");
  const peer = `[Peer]\nPublicKey = ${await publicOf(clientKey)}\nAllowedIPs = 10.99.0.2/32\n`;
  writeFileSync(conf, `[Interface]\nPrivateKey = ${exitKey}\nListenPort = ${ECHO_PORT.to}\n${peer}`, { mode: 0o600 });
  await exit.ns.exec(["wg", "setconf", "wg9", conf]);
  await exit.ns.ip(`addr add ${ECHO}/24 dev wg9`, "link set wg9 mtu 1392 up");
  await connectTunnel(
    lab,
    client,
    `[Interface]\nPrivateKey = ${clientKey}\nAddress = 10.99.0.2/32\nMTU = 1392\n[Peer]\nPublicKey = ${await publicOf(exitKey)}\nEndpoint = ${boarding.address}:${ECHO_PORT.from}\nAllowedIPs = ${ECHO}/32\nPersistentKeepalive = 25\n`,
  );
}
