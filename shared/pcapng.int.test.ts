import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { pcapToPcapng } from "./pcapng.ts";

/** An Ethernet frame with a UDP datagram 192.0.2.1:40000 to 192.0.2.2:53, as hex. */
const FRAME =
  `020000000002 020000000001 0800 4500001d000000004011f6cd c0000201 c0000202 9c40 0035 0009 0000 41`.replace(/ /g, "");

function pcap(frames: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(65_535, 16);
  header.writeUInt32LE(1, 20);
  const records = frames.flatMap((frame, i) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(1_700_000_000 + i, 0);
    record.writeUInt32LE(123_456, 4);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, frame];
  });
  return Buffer.concat([header, ...records]);
}

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

test("tcpdump reads our pcapng", async () => {
  const source = pcap([Buffer.from(FRAME, "hex"), Buffer.from(`${FRAME}`, "hex")]);
  const file: Uint8Array[] = [];
  for await (const part of pcapToPcapng(once(source), {
    captureId: "cap_01",
    comment: "打开抓包 – a reason in any script",
    clockOffsetNs: 12n,
    interface: { name: "eth0", description: "exit, outside", filter: "udp" },
    stats: { received: 2, dropped: 0 },
  })) {
    file.push(part);
  }
  const { stdout, stderr, status } = spawnSync("tcpdump", ["-n", "-tt", "--nano", "-r", "-"], {
    input: Buffer.concat(file),
    encoding: "utf8",
  });
  expect(status, stderr).toBe(0);
  const lines = stdout.trim().split("\n");
  expect(lines.length).toBe(2);
  expect(lines[0]).toMatch(/^1700000000\.123456000 IP 192\.0\.2\.1\.40000 > 192\.0\.2\.2\.53: /);
  expect(lines[1]).toMatch(/^1700000001\.123456000 /);
});
