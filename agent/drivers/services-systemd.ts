import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DATA_PATH_NICE, type Exec } from "../exec.ts";
import { argvOf } from "../proc.ts";
import { type SeenService, type ServiceSpec, type Services, sameArgv } from "./services.ts";

const START_MS = 10_000;

/**
 * What puts a unit of the data path ahead: its niceness where units share a control group, and their weight (100 is what others have)
 * where each has its own, since there nobody's niceness counts outside it.
 */
export const DATA_PATH_UNIT = [`Nice=${DATA_PATH_NICE}`, "CPUWeight=1000"] as const;

/**
 * The template of a socat relay, for the installer: `trunkline-relay@.service`. The instance is the port; what it
 * listens on and sends to is in a file the agent writes. SIGKILL, because a relay has nothing to finish and a closed
 * connection must stop at once; the whole control group, because each flow is a process of its own.
 *
 * Root without any capability, shut in, and not a user of its own: to see which sockets another user's process holds, the
 * agent would need CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, with which it could as well have everything.
 */
export function relayTemplateUnit(stateDir: string): string {
  return `[Unit]
Description=Trunkline relay of UDP port %i
After=network.target
StartLimitIntervalSec=0

[Service]
EnvironmentFile=${join(stateDir, "services")}/relay-%i.env
ExecStart=socat -T \${IDLE} \${LISTEN} \${TARGET}
${DATA_PATH_UNIT.join("\n")}
Restart=always
RestartSec=1
KillMode=control-group
KillSignal=SIGKILL
SuccessExitStatus=SIGKILL
User=root
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
InaccessiblePaths=${stateDir}
RestrictAddressFamilies=AF_INET
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~kill tkill tgkill pidfd_send_signal
TasksMax=256
`;
}

const unitOf = (name: string) => `trunkline-${name.replace(/^relay-/, "relay@")}.service`;

/**
 * Services where systemd runs. A relay is an instance of the installed template; everything else is a transient unit.
 * systemd itself restarts what dies; an instance that is there and waits for its restart counts as not running.
 */
export class SystemdServices implements Services {
  readonly #exec: Exec;
  readonly #dir: string;

  /** @param dir where the instances' files and the records are, a folder of the state directory */
  constructor(exec: Exec, dir: string) {
    this.#exec = exec;
    this.#dir = dir;
  }

  async list(prefix: string): Promise<SeenService[]> {
    const names = this.#names(prefix);
    if (names.length === 0) return [];
    const show = ["systemctl", "show", "--property=Id,MainPID", "--", ...names.map(unitOf)];
    const { stdout } = await this.#exec.run(show);
    const pids = new Map<string, number>();
    for (const block of stdout.split("\n\n")) {
      const [, id = ""] = /^Id=(.*)$/m.exec(block) ?? [];
      const [, pid = "0"] = /^MainPID=(\d+)$/m.exec(block) ?? [];
      if (pid !== "0") pids.set(id, Number(pid));
    }
    return names.map((name) => {
      const pid = pids.get(unitOf(name)) ?? null;
      return { name, pid, argv: pid === null ? [] : argvOf(pid) };
    });
  }

  async start({ name, argv, via = [] }: ServiceSpec): Promise<number> {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const unit = unitOf(name);
    const [, , idle = "", listen = "", target = ""] = argv;
    const relay = name.startsWith("relay-");
    // Written first: a unit without its file would be one nobody remembers.
    const content = relay ? `IDLE=${idle}\nLISTEN=${listen}\nTARGET=${target}\n` : "";
    writeFileSync(this.#path(name), content, { mode: 0o600 });
    await this.#exec.run(["systemctl", "reset-failed", unit], { okCodes: [0, 1, 5] });
    if (relay) await this.#exec.run(["systemctl", "start", unit]);
    else {
      const properties = [
        ...DATA_PATH_UNIT,
        "Restart=always",
        "RestartSec=1",
        "KillSignal=SIGKILL",
        "SuccessExitStatus=SIGKILL",
        "Description=Trunkline service",
      ];
      const set = properties.map((property) => `--property=${property}`);
      await this.#exec.run(["systemd-run", "--quiet", "--collect", `--unit=${unit}`, ...set, "--", ...via, ...argv]);
    }
    const before = performance.now() + START_MS;
    for (;;) {
      const seen = (await this.list(name)).find((service) => service.name === name);
      if (seen?.pid && sameArgv(seen.argv, argv)) return seen.pid;
      if (performance.now() > before) throw new Error(`${unit} does not run; see: journalctl -u ${unit}`);
      await sleep(20);
    }
  }

  async stop(name: string): Promise<void> {
    // 5: no such unit.
    await this.#exec.run(["systemctl", "stop", unitOf(name)], { okCodes: [0, 5] });
    rmSync(this.#path(name), { force: true });
  }

  #path(name: string): string {
    return join(this.#dir, `${name}.env`);
  }

  #names(prefix: string): string[] {
    try {
      const files = readdirSync(this.#dir).filter((file) => file.startsWith(prefix) && file.endsWith(".env"));
      return files.map((file) => file.slice(0, -".env".length)).sort();
    } catch {
      return []; // nothing was ever started
    }
  }
}
