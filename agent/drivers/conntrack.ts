import type { Exec } from "../exec.ts";
import { readSetting } from "./nft.ts";

/** A UDP flow as conntrack sees it: who it was sent to, and who answers. */
export interface Flow {
  source: string;
  sourcePort: number;
  /** Where the client sent it. */
  address: string;
  port: number;
  /** Who answers: the target of the address translation, or `address:port` when there was none. */
  from: string;
  fromPort: number;
  mark: number;
  /** Both directions, or undefined where the kernel does not count. */
  bytes: number | undefined;
}

const LINE =
  /^udp\s+17\s+\d+ (?:\S+ )?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) (.*?)src=(\S+) dst=\S+ sport=(\d+) dport=\d+ (.*)$/;

/** Reads one line of `conntrack -L -p udp`; undefined when it is something else. */
export function parseFlow(line: string): Flow | undefined {
  const m = LINE.exec(line);
  if (!m) return undefined;
  const [, source = "", address = "", sport, dport, between = "", from = "", rsport, rest = ""] = m;
  const counts = [...`${between} ${rest}`.matchAll(/bytes=(\d+)/g)].map((c) => Number(c[1]));
  return {
    source: own(source),
    sourcePort: Number(sport),
    address: own(address),
    port: Number(dport),
    from: own(from),
    fromPort: Number(rsport),
    mark: Number(/mark=(\d+)/.exec(rest)?.[1] ?? 0),
    bytes: counts.length > 0 ? counts.reduce((a, b) => a + b, 0) : undefined,
  };
}

/** A part of a line holds on to all that was read with it; a copy does not. */
const own = (text: string) => Buffer.from(text, "latin1").toString("latin1");

function parseFlows(text: string): Flow[] {
  return text.split("\n").flatMap((line) => parseFlow(line) ?? []);
}

/** Below this many flows all are listed, and above this many ports too: each listing walks the kernel's whole table. */
const FEW_FLOWS = 4096;
const MANY_PORTS = 8;
/** A full table on a small host that is under a flood. */
const LIST_MS = 30_000;

/** The UDP flows sent to some ports, and maybe others. */
export async function listFlowsOf(exec: Exec, ports: ReadonlySet<number> | "all"): Promise<Flow[]> {
  const all = ports === "all" || ports.size > MANY_PORTS;
  if (all || ((await readSetting(exec, "net.netfilter.nf_conntrack_count")) ?? 0) <= FEW_FLOWS) return listFlows(exec);
  return (await Promise.all([...ports].map((port) => listFlows(exec, port)))).flat();
}

/** All UDP flows, or those sent to one port. */
export async function listFlows(exec: Exec, port?: number): Promise<Flow[]> {
  const flows: Flow[] = [];
  await eachFlow(exec, (flow) => flows.push(flow), port);
  return flows;
}

/** The listing of all flows that was asked for last. */
let listing: Promise<unknown> = Promise.resolve();

/**
 * Tells of all UDP flows, or of those sent to one port, one after the other as they are read: at a flood they are hundreds of
 * thousands, and the agent's memory is bounded. For the same reason all are never listed twice at once; who asks waits.
 */
export async function eachFlow(exec: Exec, tell: (flow: Flow) => void, port?: number): Promise<void> {
  const filter = port === undefined ? [] : ["--orig-port-dst", String(port)];
  const onLine = (line: string) => {
    const flow = parseFlow(line);
    if (flow !== undefined) tell(flow);
  };
  const list = () => exec.run(["conntrack", "-L", "-p", "udp", ...filter], { onLine, timeoutMs: LIST_MS });
  const listed = port === undefined ? listing.then(list) : list();
  if (port === undefined) listing = listed.catch(() => {});
  await listed;
}

/** Forgets one flow; the next packet of it is looked up anew. A flow that is gone already is fine. Gives what it was. */
export async function forgetFlow(exec: Exec, flow: Flow): Promise<Flow[]> {
  const argv = ["conntrack", "-D", "-p", "udp", "--orig-src", flow.source, "--orig-dst", flow.address];
  argv.push("--orig-port-src", String(flow.sourcePort), "--orig-port-dst", String(flow.port));
  return parseFlows((await exec.run(argv, { okCodes: [0, 1] })).stdout);
}
