import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { createLab, type Lab } from "../../scripts/lab/lab.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { exec, stopChild } from "../../scripts/lab/process.ts";
import { startPublicBytes } from "../../scripts/lab/public-bytes.ts";
import type { TaskJob } from "../../scripts/lab/run-task.ts";
import { type RunningTask, startTask } from "../../scripts/lab/task.ts";
import { iperf, pingFlood } from "../../scripts/lab/traffic.ts";
import { newId } from "../../shared/ids.ts";
import type { CaptureParams, CaptureResult, UplinkParams } from "../../shared/protocol/tasks.ts";
import { checkFilter } from "./capture-filter.ts";
import { createFakeStore, type FakeStore } from "./testing/fake-store.ts";

const KEY = Buffer.alloc(32, 7).toString("base64");
const OTHER_KEY = Buffer.alloc(32, 8).toString("base64");
const seal = (keys: unknown) => Buffer.from(JSON.stringify(keys)).toString("base64");
const sealed = { ephemeralPublicKey: KEY, nonce: "", box: "" };
const captureId = newId("cap", 1, new Uint8Array(10));
const TICKET = "ticket-0123456789abcdef";
const PATH = "/agent/captures/one";

let lab: Lab;
let store: FakeStore;
const exit = () => lab.host("exit1");
const forward = () => lab.host("forward1");
const uplinkAt = () => ({ address: forward().privateAddress ?? "", port: 7443 });

beforeAll(async () => {
  lab = await createLab({ clients: 0, boardings: 0, purpose: "capture test" });
});
afterAll(() => lab?.close());

// The fake control plane lives in this process; socat carries the cp host's port to it by a unix socket.
let socat: ReturnType<typeof lab.cp.ns.spawn>;
beforeEach(async () => {
  store = createFakeStore();
  const path = join(lab.cp.dir, "fake.sock");
  rmSync(path, { force: true });
  store.server.listen(path);
  await once(store.server, "listening");
  socat = lab.cp.ns.spawn(["socat", "TCP-LISTEN:8787,fork,reuseaddr", `UNIX-CONNECT:${path}`]);
  await poll(async () => (await lab.cp.ns.exec(["ss", "-Hltn", "sport = :8787"])).stdout !== "", { what: "socat" });
});
const tasks: RunningTask[] = [];
afterEach(async () => {
  for (const task of tasks.splice(0)) await stopChild(task.child, "SIGKILL");
  await stopChild(socat, "SIGKILL");
  await store.close();
});

function startUplink(params: Partial<UplinkParams> = {}): RunningTask {
  const task = startTask(forward().ns, {
    task: {
      kind: "uplink",
      params: { captureId, ticket: TICKET, sealed, bytes: 1e8, uploadPath: PATH, ...params },
    },
    secret: seal({ psk: KEY, uploadToken: "upload-token" }),
    endpoint: `http://${lab.cp.address}:8787`,
    uplinks: [{ type: "uplink", id: "u", ...uplinkAt() }],
  });
  tasks.push(task);
  return task;
}

function startCapture(params: Partial<CaptureParams> = {}, psk = KEY, job: Partial<TaskJob> = {}): RunningTask {
  const task = startTask(exit().ns, {
    task: {
      kind: "capture",
      params: {
        captureId,
        point: "outside",
        filter: "",
        seconds: 60,
        bytes: 1e8,
        packets: null,
        snapLength: 128,
        exclude: [],
        uplink: uplinkAt(),
        ticket: TICKET,
        sealed,
        ...params,
      },
    },
    secret: seal({ psk }),
    endpoint: `http://${lab.cp.address}:8787`,
    outside: "eth0",
    ...job,
  });
  tasks.push(task);
  return task;
}

async function resultOf<T>(task: RunningTask): Promise<T> {
  const end = await task.end();
  if (end.type !== "result") throw new Error(JSON.stringify(end));
  return end.result as T;
}

/** Resident memory of a task's process, in MB. */
function residentMb(task: RunningTask): number {
  const status = readFileSync(`/proc/${task.child.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

/** What tcpdump makes of the stored file: a line a packet. */
async function packetsOf(file: Buffer): Promise<string[]> {
  const { stdout } = await exec(["tcpdump", "-n", "-r", "-"], { input: file });
  return stdout.split("\n").filter(Boolean);
}

test("a capture arrives whole at the control plane, and not by the exit's public address", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp", packets: 1000, snapLength: 1000 });
  await capture.event("started");
  const meter = await startPublicBytes(lab, exit());
  const privately = await exit().ns.counters("udpn0");
  const args = ["-s", "1000"];
  expect((await pingFlood(exit(), lab.cp.address, { count: 600, intervalMs: 2, args })).received).toBe(600);
  const result = await resultOf<CaptureResult>(capture);
  expect(result).toMatchObject({ stopReason: "packets", packets: 1000, droppedByKernel: 0, interface: "eth0" });
  expect(result.receivedByFilter).toBeGreaterThanOrEqual(1000);
  expect(await resultOf(uplink)).toEqual({ bytes: result.bytes });

  const file = store.stored(PATH);
  expect(file.length).toBe(result.bytes);
  const packets = await packetsOf(file);
  expect(packets.length).toBe(1000);
  expect(packets.filter((p) => /ICMP echo re(quest|ply)/.test(p)).length).toBe(1000);

  // What left publicly is the pings; a megabyte of capture went the other way.
  expect(await meter.stop()).toMatchObject({ customer: 600 * 1028, other: 0 });
  expect((await exit().ns.counters("udpn0")).txBytes - privately.txBytes).toBeGreaterThan(result.bytes);
});

test("bytes are a limit that cuts between packets", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp", bytes: 5000 });
  await capture.event("started");
  await pingFlood(exit(), lab.cp.address, { count: 60, intervalMs: 2 });
  const result = await resultOf<CaptureResult>(capture);
  expect(result.stopReason).toBe("bytes");
  expect(result.bytes).toBeLessThanOrEqual(5000);
  expect(result.bytes).toBeGreaterThan(5000 - 130);
  await resultOf(uplink);
  expect((await packetsOf(store.stored(PATH))).length).toBe(result.packets);
});

test("seconds and a stop are limits too, and an idle capture is still a file", async () => {
  for (const [params, reason] of [
    [{ seconds: 1 }, "seconds"],
    [{ seconds: 60 }, "stopped"],
  ] as const) {
    const uplink = startUplink({ uploadPath: `/agent/captures/${reason}` });
    await uplink.ready();
    const capture = startCapture({ filter: "udp port 9", ...params });
    await capture.event("started");
    if (reason === "stopped") capture.cancel();
    const result = await resultOf<CaptureResult>(capture);
    expect(result).toMatchObject({ stopReason: reason, packets: 0, bytes: 24 });
    await resultOf(uplink);
    expect(await packetsOf(store.stored(`/agent/captures/${reason}`))).toEqual([]);
    await stopChild(uplink.child);
  }
});

test("an upload that is interrupted goes on from what is stored, with identical bytes", async () => {
  store.faults = ["500", "cut-half", "409", "cut-after", "cut-half"];
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp", packets: 2000, snapLength: 65_535 });
  await capture.event("started");
  await pingFlood(exit(), lab.cp.address, { count: 1000, intervalMs: 2, args: ["-s", "1400"] });
  const result = await resultOf<CaptureResult>(capture);
  expect(await resultOf(uplink)).toEqual({ bytes: result.bytes });
  expect(store.faults).toEqual([]);
  expect(store.stored(PATH).length).toBe(result.bytes);
  expect((await packetsOf(store.stored(PATH))).length).toBe(2000);
  expect(new Set(store.puts.map((put) => put.authorization))).toEqual(new Set(["Bearer upload-token"]));
});

test("a wrong key and an unknown ticket are refused, and the right one still gets in", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const refused = { type: "error", code: "uplink_failed" };
  expect(await startCapture({}, OTHER_KEY).end()).toMatchObject({
    ...refused,
    detail: expect.stringMatching(/refused the key/),
  });
  expect(await startCapture({ ticket: "ticket-unknown-000000" }).end()).toMatchObject({
    ...refused,
    detail: expect.stringMatching(/does not know this ticket/),
  });
  const capture = startCapture({ filter: "icmp", packets: 2 });
  await capture.event("started");
  // The ticket is taken now: a second holder of the same key has to stay outside.
  expect(await startCapture().end()).toMatchObject({
    ...refused,
    detail: expect.stringMatching(/does not know this ticket/),
  });
  await pingFlood(exit(), lab.cp.address, { count: 1 });
  await resultOf(capture);
  await resultOf(uplink);
});

test("the uplink answers on the private address only", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const { stdout } = await forward().ns.exec(["ss", "-Hltn"]);
  expect(stdout.trim().split(/\s+/)[3]).toBe(`${forward().privateAddress}:7443`);
});

test("without a private path there is no capture, however reachable the uplink is", async () => {
  const publicly = { address: forward().address, port: 7443 };
  expect(await startCapture({ uplink: publicly }).end()).toMatchObject({ type: "error", code: "no_private_path" });
  // The private address, but the way there leads out of the public interface.
  await startUplink().ready();
  await exit().ns.ip("link set udpn0 down");
  await lab.inet.route(`${uplinkAt().address}/32 via ${forward().address}`);
  try {
    expect(await startCapture().end()).toMatchObject({ type: "error", code: "no_private_path" });
  } finally {
    await lab.inet.ip(`route del ${uplinkAt().address}/32`);
    await exit().ns.ip("link set udpn0 up");
  }
});

test("a sender that dies is a cut and not an end", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp" });
  await capture.event("started");
  await pingFlood(exit(), lab.cp.address, { count: 5 });
  await poll(() => store.stored(PATH).length > 24, { what: "first bytes" });
  capture.child.kill("SIGKILL");
  expect(await uplink.end()).toMatchObject({ type: "error", code: "uplink_cut" });
});

test("a control plane that refuses ends both sides", async () => {
  store.faults = ["403"];
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp" });
  expect(await uplink.end()).toMatchObject({ type: "error", code: "upload_refused" });
  expect(await capture.end()).toMatchObject({ type: "error", code: "uplink_failed" });
});

test("a capture is a success only when its last byte is stored", async () => {
  store.faults = ["stall", "403"];
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp" });
  await capture.event("started");
  await poll(() => store.puts.length === 1, { what: "the first chunk" });
  await pingFlood(exit(), lab.cp.address, { count: 3 });
  capture.cancel();
  const capturing = async () => (await exit().ns.exec(["ss", "-0", "-H"])).stdout !== "";
  await poll(async () => !(await capturing()), { what: "tcpdump to end" });
  store.release();
  expect(await uplink.end()).toMatchObject({ type: "error", code: "upload_refused" });
  expect(await capture.end()).toMatchObject({ type: "error", code: "uplink_failed" });
});

test("a ticket carries no more than its bytes", async () => {
  const uplink = startUplink({ bytes: 500 });
  await uplink.ready();
  const capture = startCapture({ filter: "icmp" });
  await capture.event("started");
  await pingFlood(exit(), lab.cp.address, { count: 10, intervalMs: 2 });
  expect(await uplink.end()).toMatchObject({ type: "error", code: "ticket_exhausted" });
  expect(await capture.end()).toMatchObject({ type: "error", code: "uplink_failed" });
  expect(store.stored(PATH).length).toBeLessThanOrEqual(500);
});

test("a ticket nobody uses ends with a word of that", async () => {
  const uplink = startUplink();
  await uplink.ready();
  uplink.cancel();
  expect(await uplink.end()).toMatchObject({ type: "error", code: "uplink_unused" });
});

test("a control plane that stalls pushes back to the kernel: memory is bounded, what is lost is counted", async () => {
  const uplink = startUplink({ bytes: 1e9 });
  await uplink.ready();
  const capture = startCapture({ filter: "udp", bytes: 1e9, snapLength: 65_535 });
  await capture.event("started");
  store.faults = ["stall"];
  const offered = await iperf(lab, exit(), { udp: true, bitrate: "500M", seconds: 2 });
  expect(offered.bitsPerSecond).toBeGreaterThan(100e6);
  for (const task of [uplink, capture]) expect(residentMb(task)).toBeLessThan(160);
  store.release();
  capture.cancel();
  const result = await resultOf<CaptureResult>(capture);
  expect(result.droppedByKernel).toBeGreaterThan(0);
  expect(result.stopReason).toBe("stopped");
  expect(await resultOf(uplink)).toEqual({ bytes: result.bytes });
  expect((await packetsOf(store.stored(PATH))).length).toBe(result.packets);
});

test("one capture at a time on a host", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "icmp" }, KEY, { twice: true });
  expect(await capture.event("second")).toMatchObject({ code: "capture_busy" });
  await capture.event("started");
  capture.cancel();
  await resultOf(capture);
});

test("a tunnel is captured as raw IP", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const tunnel = exit().ns.spawn(["wireguard-go", "-f", "wg0"]);
  await poll(() => exit().ns.exists("/run/wireguard/wg0.sock"), { what: "the tunnel" });
  await exit().ns.ip("addr add 10.13.13.1/24 dev wg0", "link set wg0 up");
  const capture = startCapture({ point: "tunnel", filter: "icmp", packets: 1 }, KEY, { tunnel: "wg0" });
  await capture.event("started");
  await pingFlood(exit(), "10.13.13.2", { count: 1 });
  expect(await resultOf<CaptureResult>(capture)).toMatchObject({ interface: "wg0", packets: 1 });
  await resultOf(uplink);
  expect(store.stored(PATH).readUInt32LE(20)).toBe(101); // LINKTYPE_RAW
  await stopChild(tunnel);
  expect(await startCapture({ point: "tunnel" }).end()).toMatchObject({ type: "error", code: "no_interface" });
});

test("the capture's own way out is not in it", async () => {
  const uplink = startUplink();
  await uplink.ready();
  const capture = startCapture({ filter: "tcp" });
  await capture.event("started");
  await exit().ns.exec(["curl", "-s", "-m", "2", `http://${lab.cp.address}:8787/`], { check: false });
  await exit().ns.exec(["curl", "-s", "-m", "2", "http://192.0.2.80/"]);
  capture.cancel();
  const result = await resultOf<CaptureResult>(capture);
  await resultOf(uplink);
  expect(result.packets).toBeGreaterThan(5);
  const packets = await packetsOf(store.stored(PATH));
  expect(packets.filter((p) => !p.includes("192.0.2.80"))).toEqual([]);
});

test("the compiler has the last word on a filter", async () => {
  for (const good of ["tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "ip[2:2] - 20 > 40", "ether host 00:11:22:33:44:55"]) {
    await checkFilter(good, "EN10MB");
  }
  for (const bad of ["udp and", "tcp) or (udp", "host 1.2.3.4.5", "port 70000"]) {
    await expect(checkFilter(bad, "EN10MB")).rejects.toMatchObject({ code: "bad_filter" });
  }
  await expect(checkFilter("ether host 00:11:22:33:44:55", "RAW")).rejects.toMatchObject({ code: "bad_filter" });
});
