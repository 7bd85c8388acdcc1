import { once } from "node:events";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import { ExitLab, INET } from "./testing/exit-lab.ts";
import { settle } from "./testing/pass.ts";

/**
 * The client's own interface is left at 1500, as with a device that ignores the MTU it was given: only the exit's clamp
 * keeps full-size packets off the path. Path MTU discovery is black-holed, and the path cuts nothing up.
 */
const BULK = join(import.meta.dirname, "testing/tcp-bulk.ts");
const BYTES = 4_000_000;
const TOO_BIG = "icmp type destination-unreachable icmp code frag-needed drop";
const BLACK_HOLE = `table ip blackhole {
  chain in {
    type filter hook prerouting priority -450;
    ip frag-off & 0x3fff != 0 drop
    ${TOO_BIG}
  }
  chain out {
    type filter hook output priority 0;
    ${TOO_BIG}
  }
}
`;
let x: ExitLab;

beforeAll(async () => {
  x = await ExitLab.open("mss test", 1500);
  const server = x.inet.spawn([process.execPath, BULK, "serve", "81"]);
  if (server.stdout) await once(server.stdout, "data");
  await x.exit.ip("link set in0 mtu 1454");
  await x.client.ip("link set eth0 mtu 1454");
  for (const ns of [x.exit, x.client]) await ns.exec(["nft", "-f", "-"], { input: BLACK_HOLE });
});
afterAll(() => x?.close());

const items = (mtu: number): StateItem[] => [x.wireguard({ mtu }), x.whitelist([`${INET}/32`], [])];
const bulk = async (direction: "get" | "put") => {
  const argv = [process.execPath, BULK, direction, INET, "81", String(BYTES)];
  return (await x.client.exec(argv, { check: false, timeoutMs: 15_000 })).stdout.trim();
};

test.each([1392, 1280])(
  "with a line's MTU of %i, full-size TCP goes both ways over a path of 1454 with path MTU discovery blocked",
  async (mtu) => {
    await settle(x.drivers, items(mtu));
    const capture = x.inet.spawn(["tcpdump", "-n", "-l", "-i", "x", "-v", "tcp[tcpflags] & tcp-syn != 0"]);
    let syns = "";
    capture.stdout?.on("data", (chunk: Buffer) => {
      syns += chunk;
    });
    await once(capture.stderr ?? capture, "data");
    expect(await bulk("get")).toBe(`received ${BYTES}`);
    expect(await bulk("put")).toBe(`received ${BYTES}`);
    await expect.poll(() => syns.match(/mss \d+/g)?.length ?? 0).toBeGreaterThanOrEqual(4);
    // What the server was offered is the line's; what it offers itself is clamped on its way into the tunnel.
    expect(new Set(syns.match(/mss \d+/g))).toEqual(new Set([`mss ${mtu - 40}`, "mss 1460"]));
    capture.kill("SIGKILL");
  },
);
