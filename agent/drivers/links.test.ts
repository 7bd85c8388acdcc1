import { expect, test } from "vitest";
import { readDefaultRoutes } from "./links.ts";

const HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
const table = (...lines: string[]) => [HEAD, ...lines, ""].join("\n");

test("default routes in use are read, the least metric first, with their gateways", () => {
  const connected = "eth9\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
  const far = "eth1\t00000000\t010200C0\t0003\t0\t0\t200\t00000000\t0\t0\t0";
  const near = "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
  const onLink = "tun1\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0";
  expect(readDefaultRoutes(table(connected, far, near, onLink))).toEqual([
    { dev: "tun1", gateway: undefined },
    { dev: "eth0", gateway: "192.0.2.1" },
    { dev: "eth1", gateway: "192.0.2.1" },
  ]);
  expect(readDefaultRoutes(table(connected))).toEqual([]);
  expect(readDefaultRoutes("")).toEqual([]);
});

test("half of all addresses is no default route, and one that refuses leads nowhere", () => {
  const half = "tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0";
  const unreachable = "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0";
  expect(readDefaultRoutes(table(half, unreachable))).toEqual([]);
});
