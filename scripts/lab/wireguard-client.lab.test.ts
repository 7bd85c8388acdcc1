import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createLab, type Lab, type LabHost, WEB_LISTED } from "./lab.ts";
import { poll } from "./poll.ts";
import { exec } from "./process.ts";
import { httpGet, iperf, pingFlood } from "./traffic.ts";
import { connectTunnel } from "./wireguard-client.ts";

/** A bare exit, as the agent would set it up: a tunnel that ends in it and leaves by its public address. */
async function bareExit(
  exit: LabHost,
): Promise<{ publicKey: string; addPeer(key: string, ip: string): Promise<void> }> {
  exit.ns.spawn(["wireguard-go", "-f", "wg0"]);
  await poll(() => exit.ns.exists("/run/wireguard/wg0.sock"), { what: "the exit's tunnel" });
  await exit.ns.sysctl({ "net.ipv4.ip_forward": "1" });
  const { privateKey, publicKey } = await keyPair();
  const file = join(exit.dir, "wg.key");
  writeFileSync(file, privateKey, { mode: 0o600 });
  await exit.ns.exec(["wg", "set", "wg0", "listen-port", "51820", "private-key", file]);
  await exit.ns.ip("addr add 10.13.13.1/24 dev wg0", "link set wg0 mtu 1392 up");
  await exit.ns.exec(["nft", "-f", "-"], {
    input: "table ip t {\nchain c {\ntype nat hook postrouting priority 100\noifname eth0 masquerade\n}\n}\n",
  });
  return {
    publicKey,
    addPeer: async (key, ip) => {
      await exit.ns.exec(["wg", "set", "wg0", "peer", key, "allowed-ips", ip]);
    },
  };
}

async function keyPair(): Promise<{ privateKey: string; publicKey: string }> {
  const privateKey = (await exec(["wg", "genkey"])).stdout.trim();
  return { privateKey, publicKey: (await exec(["wg", "pubkey"], { input: privateKey })).stdout.trim() };
}

let lab: Lab;
beforeAll(async () => {
  lab = await createLab({ clients: 2, boardings: 0, forwards: 0, exits: 1, purpose: "tunnel test" });
});
afterAll(() => lab?.close());

test("two clients on one machine each have their own tunnel, and leave by the exit's address", async () => {
  const exit = lab.host("exit1");
  const { publicKey, addPeer } = await bareExit(exit);
  const connect = async (client: LabHost, address: string) => {
    const keys = await keyPair();
    await addPeer(keys.publicKey, address);
    const conf = `[Interface]\nPrivateKey = ${keys.privateKey}\nAddress = ${address}\nDNS = 10.13.13.1\nMTU = 1392\n
[Peer]\nPublicKey = ${publicKey}\nEndpoint = ${exit.address}:51820\nAllowedIPs = 0.0.0.0/0\nPersistentKeepalive = 25\n`;
    return connectTunnel(lab, client, conf);
  };
  const [one, two] = [lab.host("client1"), lab.host("client2")];
  const tunnels = await Promise.all([connect(one, "10.13.13.2/32"), connect(two, "10.13.13.3/32")]);
  for (const client of [one, two]) {
    expect((await httpGet(client, `http://${WEB_LISTED}/`)).body.trim()).toBe(exit.address);
    expect((await pingFlood(client, WEB_LISTED, { count: 3 })).received).toBe(3);
    expect((await client.ns.exec(["cat", "/etc/resolv.conf"])).stdout).toBe("nameserver 10.13.13.1\n");
  }
  expect(await tunnels[0].lastHandshakeAt()).toBeGreaterThan(Date.now() - 60_000);
  expect((await iperf(lab, one, { seconds: 1, udp: true, bitrate: "10M" })).bitsPerSecond).toBeGreaterThan(5e6);

  await tunnels[0].down();
  expect((await httpGet(one, `http://${WEB_LISTED}/`)).body.trim()).toBe(one.address);
  expect((await httpGet(two, `http://${WEB_LISTED}/`)).body.trim()).toBe(exit.address);
  await tunnels[1].down();
});
