import { once } from "node:events";
import { type Lab, type LabHost, WEB_LISTED } from "./lab.ts";
import { poll } from "./poll.ts";
import { stopChild } from "./process.ts";

/** What a request from a host came to. */
export interface HttpResult {
  /** True for any HTTP answer below 400. */
  ok: boolean;
  /** 0 when there was no answer; `error` then says why. */
  status: number;
  body: string;
  bytes: number;
  seconds: number;
  error: string;
}

/** HTTP GET from inside a host, by curl. Never throws for a failed request. */
export async function httpGet(
  host: LabHost,
  url: string,
  options: { timeoutMs?: number; discardBody?: boolean; args?: readonly string[] } = {},
): Promise<HttpResult> {
  const seconds = (options.timeoutMs ?? 5000) / 1000;
  const sink = options.discardBody ? ["-o", "/dev/null"] : [];
  const metrics = ["-w", "%{stderr}\n%{http_code} %{size_download} %{time_total}"];
  const argv = ["curl", "-sS", "--noproxy", "*", "-m", `${seconds}`, ...sink, ...metrics, ...(options.args ?? [])];
  const { stdout, stderr } = await host.ns.exec([...argv, "--", url], {
    check: false,
    timeoutMs: seconds * 1000 + 5000,
  });
  const lines = stderr.trim().split("\n");
  const [status = 0, bytes = 0, took = 0] = (lines.pop() ?? "").split(" ").map(Number);
  return { ok: status > 0 && status < 400, status, body: stdout, bytes, seconds: took, error: lines.join(" ").trim() };
}

/** Loss of a burst of echo requests. */
export interface PingFlood {
  sent: number;
  received: number;
  lossPct: number;
  avgMs: number | null;
}

/** `count` echo requests at a fixed interval (10 ms by default). */
export async function pingFlood(
  host: LabHost,
  target: string,
  options: { count?: number; intervalMs?: number; args?: readonly string[] } = {},
): Promise<PingFlood> {
  const { count = 100, intervalMs = 10 } = options;
  const argv = ["ping", "-n", "-q", "-W", "1", "-i", `${intervalMs / 1000}`, "-c", `${count}`, ...(options.args ?? [])];
  const { stdout } = await host.ns.exec([...argv, "--", target], {
    check: false,
    env: { LC_ALL: "C" },
    timeoutMs: count * intervalMs + 20_000,
  });
  const [, sent, received] = /([0-9]+) packets transmitted, ([0-9]+) received/.exec(stdout) ?? [];
  if (sent === undefined) throw new Error(`ping of ${target} from ${host.name} said: ${stdout}`);
  const [, avg] = /= [0-9.]+\/([0-9.]+)\//.exec(stdout) ?? [];
  const lossPct = (100 * (Number(sent) - Number(received))) / Math.max(1, Number(sent));
  return { sent: Number(sent), received: Number(received), lossPct, avgMs: avg === undefined ? null : Number(avg) };
}

/** A download that trickles: 10 kB/s in 10 ms ticks, so that every stall shows. */
export interface Stream {
  bytes(): number;
  /** Longest silence between two arrivals so far, the present one included. */
  longestGapMs(): number;
  alive(): boolean;
  stop(): Promise<void>;
}

/** Starts a trickling download from inside a host and resolves with its first byte. */
export async function startStream(host: LabHost, url = `http://${WEB_LISTED}/stream`): Promise<Stream> {
  const child = host.ns.spawn(["curl", "-sSN", "--noproxy", "*", "--", url]);
  const { stdout } = child;
  if (!stdout) throw new Error("no pipe from curl");
  let bytes = 0;
  let last = 0;
  let longest = 0;
  stdout.on("data", (chunk: Buffer) => {
    const now = performance.now();
    if (last > 0) longest = Math.max(longest, now - last);
    last = now;
    bytes += chunk.length;
  });
  child.stderr?.resume();
  const first = await Promise.race([once(stdout, "data"), once(child, "exit")]);
  if (typeof first[0] === "number") throw new Error(`the stream from ${url} ended at once (curl ${first[0]})`);
  return {
    bytes: () => bytes,
    longestGapMs: () => Math.max(longest, performance.now() - last),
    alive: () => child.exitCode === null && child.signalCode === null,
    stop: () => stopChild(child),
  };
}

/** What iperf3 measured at the receiving end. */
export interface Throughput {
  bitsPerSecond: number;
  /** UDP only. */
  lostPct: number | null;
}

/** iperf3 from a host to the listed site's address. `bitrate` as iperf3 takes it ("100M"); UDP needs one. */
export async function iperf(
  lab: Lab,
  host: LabHost,
  options: { seconds?: number; udp?: boolean; bitrate?: string; reverse?: boolean; port?: number } = {},
): Promise<Throughput> {
  const { seconds = 3, port = 5201 } = options;
  const logFile = lab.logFile("iperf3-server");
  const server = lab.inet.spawn(["iperf3", "-s", "-1", "-B", WEB_LISTED, "-p", `${port}`], { logFile });
  try {
    await poll(async () => (await lab.inet.exec(["ss", "-Hltn", `sport = :${port}`])).stdout !== "", {
      what: "iperf3 to listen",
    });
    const flags = [...(options.udp ? ["-u"] : []), ...(options.reverse ? ["-R"] : [])];
    const rate = options.bitrate === undefined ? [] : ["-b", options.bitrate];
    const argv = ["iperf3", "-c", WEB_LISTED, "-p", `${port}`, "-t", `${seconds}`, "-J", ...flags, ...rate];
    const { stdout } = await host.ns.exec(argv, { timeoutMs: seconds * 1000 + 20_000 });
    const { end } = JSON.parse(stdout) as {
      end: {
        sum?: { bits_per_second: number; lost_percent: number };
        sum_received?: { bits_per_second: number };
      };
    };
    const bitsPerSecond = end.sum_received?.bits_per_second ?? end.sum?.bits_per_second ?? 0;
    return { bitsPerSecond, lostPct: options.udp ? (end.sum?.lost_percent ?? null) : null };
  } finally {
    await stopChild(server, "SIGKILL");
  }
}
