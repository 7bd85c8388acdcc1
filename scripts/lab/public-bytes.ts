import type { Lab, LabHost } from "./lab.ts";

/**
 * Bytes of IP packets that left an exit by its public interface, by what they were for. The exit's public bandwidth is
 * the customer's: `other` is where a capture that took the wrong way would show.
 */
export interface PublicBytes {
  total: number;
  /** To the sites (192.0.2.0/24), ICMP, and the tunnel's own datagrams when `tunnelPorts` says which those are. */
  customer: number;
  /** The agent's link, as it was when the measurement began. */
  control: number;
  other: number;
}

export interface PublicBytesOptions {
  /** Only connections of this process count as control; without it, every one to the control plane that exists now. */
  agentPid?: number;
  /** UDP ports the exit's WireGuard listens on, for lines that reach it by its public address. */
  tunnelPorts?: readonly number[];
}

export interface PublicBytesMeter {
  read(): Promise<PublicBytes>;
  /** Takes the counters away; hands back the last reading. */
  stop(): Promise<PublicBytes>;
}

const SITES = "192.0.2.0/24";
const KINDS = ["total", "customer", "control", "other"] as const;

/**
 * Counts, on the router's side of the exit's public link, from now on. Whatever the exit does to its own tables, this
 * counts what really came out. ARP is not IP and is left out.
 */
export async function startPublicBytes(
  lab: Lab,
  exit: LabHost,
  options: PublicBytesOptions = {},
): Promise<PublicBytesMeter> {
  const { inet, cp } = lab;
  const table = `trunkline_lab_${exit.name}`;
  const links = await controlPorts(exit, cp.address, options.agentPid);
  const control = links.map((port) => `ip daddr ${cp.address} tcp sport ${port} counter name control return`);
  const tunnel = (options.tunnelPorts ?? []).map((port) => `udp sport ${port} counter name customer return`);
  const ruleset = [
    `add table ip ${table}`,
    `delete table ip ${table}`,
    `table ip ${table} {`,
    ...KINDS.map((kind) => `counter ${kind} {\n}`),
    "chain leaving {",
    "type filter hook prerouting priority -400; policy accept;",
    `iifname != "${exit.name}" return`,
    "counter name total",
    `ip daddr ${SITES} counter name customer return`,
    "ip protocol icmp counter name customer return",
    ...tunnel,
    ...control,
    "counter name other",
    "}",
    "}",
  ];
  await inet.exec(["nft", "-f", "-"], { input: `${ruleset.join("\n")}\n` });

  const read = async (): Promise<PublicBytes> => {
    const { stdout } = await inet.exec(["nft", "-j", "list", "counters", "table", "ip", table]);
    const { nftables } = JSON.parse(stdout) as { nftables: { counter?: { name: string; bytes: number } }[] };
    const bytes = new Map(nftables.flatMap(({ counter }) => (counter ? [[counter.name, counter.bytes]] : [])));
    const of = (kind: (typeof KINDS)[number]) => bytes.get(kind) ?? 0;
    return { total: of("total"), customer: of("customer"), control: of("control"), other: of("other") };
  };
  return {
    read,
    stop: async () => {
      const last = await read();
      await inet.exec(["nft", "delete", "table", "ip", table]);
      return last;
    },
  };
}

/** Counts while `body` runs. */
export async function measurePublicBytes(
  lab: Lab,
  exit: LabHost,
  body: () => Promise<unknown>,
  options: PublicBytesOptions = {},
): Promise<PublicBytes> {
  const meter = await startPublicBytes(lab, exit, options);
  try {
    await body();
  } catch (error) {
    await meter.stop();
    throw error;
  }
  return meter.stop();
}

/** Local ports of the host's established TCP connections to the control plane. */
async function controlPorts(exit: LabHost, controlPlane: string, agentPid: number | undefined): Promise<number[]> {
  const { stdout } = await exit.ns.exec(["ss", "-tnHp", "state", "established", "dst", controlPlane]);
  return stdout
    .split("\n")
    .filter((line) => agentPid === undefined || line.includes(`pid=${agentPid},`))
    .flatMap((line) => {
      const port = /\s[0-9.]+:([0-9]+)\s+[0-9.]+:[0-9]+/.exec(line)?.[1];
      return port === undefined ? [] : [Number(port)];
    });
}
