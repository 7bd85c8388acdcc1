import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { createExec } from "./exec.ts";
import { createSystemd, loopsAlive } from "./systemd.ts";

let dir: string;
let socket: string;
let listener: ChildProcess;
let heard = "";
const warnings: string[] = [];
const log = {
  info() {},
  warn: (message: string, facts = {}) => void warnings.push(`${message} ${JSON.stringify(facts)}`),
  error() {},
};

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "trunkline-notify-"));
  socket = join(dir, "notify");
  heard = "";
  warnings.length = 0;
  // Node has no Unix datagram sockets; this is systemd's end.
  listener = spawn("socat", ["-u", `UNIX-RECVFROM:${socket},fork`, "STDOUT"]);
  listener.stdout?.on("data", (chunk: Buffer) => {
    heard += `${chunk}\n`;
  });
  await expect.poll(() => existsSync(socket)).toBe(true);
  return () => {
    listener.kill("SIGKILL");
    rmSync(dir, { recursive: true });
    delete process.env.NOTIFY_SOCKET;
  };
});

test("systemd hears READY, STATUS, WATCHDOG and STOPPING", async () => {
  // The package's own child takes it from the process.
  process.env.NOTIFY_SOCKET = socket;
  const systemd = createSystemd({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: "30000000" }, createExec(), log);
  expect(systemd.watchdogMs).toBe(10_000);
  systemd.ready();
  systemd.status("link linked, revision 4");
  systemd.watchdog();
  await systemd.stopping();
  for (const what of ["READY=1", "STATUS=link linked, revision 4", "WATCHDOG=1", "STOPPING=1"])
    await expect.poll(() => heard, { timeout: 5000 }).toContain(what);
  // socat keeps the barrier's descriptor that systemd would close, so systemd-notify may complain afterwards.
});

test("without systemd nothing is said, and a watchdog meant for another process is not fed", () => {
  expect(createSystemd({}, createExec(), log).watchdogMs).toBeUndefined();
  const env = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "30000000", WATCHDOG_PID: "1" };
  expect(createSystemd(env, createExec(), log).watchdogMs).toBeUndefined();
});

test("a systemd that can't be told is warned of once and ends nothing", async () => {
  const systemd = createSystemd({ NOTIFY_SOCKET: join(dir, "nobody") }, createExec(), log);
  await systemd.stopping();
  await systemd.stopping();
  expect(warnings).toHaveLength(1);
});

test("the watchdog is fed only while both loops turn", () => {
  expect(loopsAlive(1_000_000, { reconcile: 990_000, link: 990_000 })).toBe(true);
  expect(loopsAlive(1_000_000, { reconcile: 800_000, link: 990_000 })).toBe(false);
  expect(loopsAlive(1_000_000, { reconcile: 990_000, link: 900_000 })).toBe(false);
});
