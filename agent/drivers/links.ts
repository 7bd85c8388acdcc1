import type { Exec } from "../exec.ts";

/** A network interface as `ip` sees it. */
export interface Link {
  name: string;
  mtu: number;
  up: boolean;
  /** IPv4 addresses with prefix length. */
  addresses: string[];
}

interface IpLink {
  ifname: string;
  mtu?: number;
  flags?: string[];
  addr_info?: { family?: string; local?: string; prefixlen?: number }[];
}

/** All interfaces of this network namespace. */
export async function listLinks(exec: Exec): Promise<Link[]> {
  const { stdout } = await exec.run(["ip", "-j", "addr", "show"]);
  return (JSON.parse(stdout || "[]") as IpLink[])
    .filter((link) => link.ifname !== undefined)
    .map((link) => ({
      name: link.ifname,
      mtu: link.mtu ?? 0,
      up: link.flags?.includes("UP") ?? false,
      addresses: (link.addr_info ?? []).filter((a) => a.family === "inet").map((a) => `${a.local}/${a.prefixlen}`),
    }));
}

/** The host's own IPv4 addresses. */
export async function localAddresses(exec: Exec): Promise<Set<string>> {
  return new Set((await listLinks(exec)).flatMap((link) => link.addresses.map((a) => a.split("/")[0] ?? "")));
}

export interface DefaultRoute {
  dev: string;
  /** Undefined for a route straight onto a link. */
  gateway: string | undefined;
}

/** RTF_UP, RTF_GATEWAY and RTF_REJECT of linux/route.h: in use, by a gateway, and one that only refuses. */
const [UP, GATEWAY, REJECT] = [0x0001, 0x0002, 0x0200];

/**
 * Reads the IPv4 default routes out of `/proc/net/route`, the least metric first: the main table, a header, then tabs;
 * flags in hexadecimal, addresses too and in the order of the host's bytes, lowest first on all that we ship for.
 * Exported for its test.
 */
export function readDefaultRoutes(text: string): DefaultRoute[] {
  const routes = text.split("\n").map((line) => {
    const [dev = "", destination, via = "", flags = "", , , metric, mask] = line.split("\t").map((f) => f.trim());
    const bits = Number.parseInt(flags, 16);
    const isDefault = destination === "00000000" && mask === "00000000" && (bits & UP) !== 0 && (bits & REJECT) === 0;
    const gateway = (bits & GATEWAY) === 0 ? undefined : [...Buffer.from(via, "hex")].reverse().join(".");
    return { dev, gateway, isDefault, metric: Number(metric) };
  });
  const usable = routes.filter((r) => r.isDefault && r.dev !== "*").sort((a, b) => a.metric - b.metric);
  return usable.map(({ dev, gateway }) => ({ dev, gateway }));
}

const defaultRoutes = async (exec: Exec) => readDefaultRoutes((await exec.read("/proc/net/route")) ?? "");

/** The interface of the IPv4 default route with the least metric, or undefined when there is none. */
export async function defaultInterface(exec: Exec): Promise<string | undefined> {
  return (await defaultRoutes(exec))[0]?.dev;
}

/** The gateway of the IPv4 default route with the least metric that has one, or undefined when there is none. */
export async function defaultGateway(exec: Exec): Promise<string | undefined> {
  return (await defaultRoutes(exec)).find(({ gateway }) => gateway !== undefined)?.gateway;
}
