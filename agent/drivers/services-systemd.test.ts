import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Exec } from "../exec.ts";
import { argvOf } from "../proc.ts";
import { DEFAULT_SOCAT, socatArgv } from "./relay-socat-plan.ts";
import { relayTemplateUnit, SystemdServices } from "./services-systemd.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "services-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** systemd as the driver sees it; what it "runs" is this very process, whose argv is known. */
function systemd() {
  const calls: string[] = [];
  const running = new Set<string>();
  const exec: Exec = {
    async run(argv) {
      calls.push(argv.join(" "));
      const unit = argv.find((arg) => arg.endsWith(".service"))?.replace("--unit=", "") ?? "";
      if (argv[0] === "systemd-run" || argv[1] === "start") running.add(unit);
      if (argv[1] === "stop") running.delete(unit);
      const units = argv.filter((arg) => arg.endsWith(".service"));
      const blocks = units.map((id) => `MainPID=${running.has(id) ? process.pid : 0}\nId=${id}\n`);
      return { code: 0, stdout: argv[1] === "show" ? blocks.join("\n") : "", stderr: "" };
    },
    detach: async () => {
      throw new Error("nothing is detached where systemd runs");
    },
    read: async () => undefined,
  };
  return { exec, calls, running };
}

test("a relay is an instance of the template, whose file says what it relays; it is found again and stopped", async () => {
  const { exec, calls, running } = systemd();
  const services = new SystemdServices(exec, dir);
  const argv = socatArgv(40_000, { address: "203.0.113.9", port: 51820 }, DEFAULT_SOCAT);
  // The stand-in never gets socat's argv, so the start is not awaited to its end here.
  void services.start({ name: "relay-40000", argv }).catch(() => {});
  await expect.poll(() => running.has("trunkline-relay@40000.service")).toBe(true);
  const file = readFileSync(join(dir, "relay-40000.env"), "utf8");
  expect(file).toBe(`IDLE=180\nLISTEN=${argv[3]}\nTARGET=${argv[4]}\n`);
  // The template's command line with that file is the argv that is verified.
  const [, line = ""] = /^ExecStart=(.*)$/m.exec(relayTemplateUnit("/state")) ?? [];
  const values = new Map(
    file
      .trim()
      .split("\n")
      .map((l) => [l.slice(0, l.indexOf("=")), l.slice(l.indexOf("=") + 1)]),
  );
  expect(line.split(" ").map((word) => word.replace(/^\$\{(.*)\}$/, (_, name) => values.get(name) ?? ""))).toEqual(
    argv,
  );
  expect(relayTemplateUnit("/state")).toContain("EnvironmentFile=/state/services/relay-%i.env");
  expect(relayTemplateUnit("/state")).toContain("\nNice=-10\nCPUWeight=1000\n");
  const again = new SystemdServices(exec, dir);
  expect(await again.list("relay-")).toEqual([{ name: "relay-40000", pid: process.pid, argv: argvOf(process.pid) }]);
  await again.stop("relay-40000");
  expect(calls).toContain("systemctl stop trunkline-relay@40000.service");
  expect(existsSync(join(dir, "relay-40000.env"))).toBe(false);
  expect(await again.list("relay-")).toEqual([]);
});

test("anything else is a transient unit, which systemd starts again by itself", async () => {
  const { exec, calls } = systemd();
  const argv = argvOf(process.pid);
  const pid = await new SystemdServices(exec, dir).start({ name: "dns-tl0", argv, via: ["setpriv", "--"] });
  expect(pid).toBe(process.pid);
  const [run = ""] = calls.filter((call) => call.startsWith("systemd-run"));
  expect(run).toContain("--unit=trunkline-dns-tl0.service");
  expect(run).toContain("--property=Restart=always");
  expect(run.endsWith(` -- setpriv -- ${argv.join(" ")}`)).toBe(true);
});
