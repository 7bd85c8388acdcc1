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

type DefaultRoute = { dev?: string; gateway?: string; metric?: number };

async function defaultRoutes(exec: Exec): Promise<DefaultRoute[]> {
  const { stdout } = await exec.run(["ip", "-j", "-4", "route", "show", "default"]);
  const routes = JSON.parse(stdout || "[]") as DefaultRoute[];
  return routes.sort((a, b) => (a.metric ?? 0) - (b.metric ?? 0));
}

/** The interface of the IPv4 default route with the least metric, or undefined when there is none. */
export async function defaultInterface(exec: Exec): Promise<string | undefined> {
  return (await defaultRoutes(exec)).find((route) => route.dev !== undefined)?.dev;
}

/** The gateway of the IPv4 default route with the least metric, or undefined when there is none. */
export async function defaultGateway(exec: Exec): Promise<string | undefined> {
  return (await defaultRoutes(exec)).find((route) => route.gateway !== undefined)?.gateway;
}
