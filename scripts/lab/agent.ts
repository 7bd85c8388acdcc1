import type { ChildProcess } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Lab, type LabHost, ROOT } from "./lab.ts";
import { ExecError, stopChild } from "./process.ts";

export interface AgentOptions {
  /** Control plane's base URL as the host sees it. */
  url: string;
  /** boarding, forward or exit; default the host's kind. */
  role?: string;
  /** Arguments of node before the sub-command, from the repository's root. */
  argv?: readonly string[];
  /** Arguments added to `run`. */
  runArgs?: readonly string[];
  env?: Record<string, string>;
}

/** An agent on a host. Its state and configuration are in the host's folder and so survive a reboot. */
export class LabAgent {
  readonly host: LabHost;
  readonly stateDir: string;
  readonly configFile: string;
  readonly #lab: Lab;
  readonly #options: AgentOptions;
  #child: ChildProcess | undefined;

  constructor(lab: Lab, host: LabHost, options: AgentOptions) {
    this.#lab = lab;
    this.host = host;
    this.#options = options;
    this.stateDir = join(host.dir, "state");
    this.configFile = join(host.dir, "etc", "agent.json");
    mkdirSync(join(host.dir, "etc"), { recursive: true });
  }

  get pid(): number | undefined {
    return this.running ? this.#child?.pid : undefined;
  }

  get running(): boolean {
    return this.#child?.pid !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get logFile(): string {
    return this.#lab.logFile(`agent-${this.host.name}`);
  }

  /** `enrol` with a token, which goes by the environment and not the argv. Throws ExecError when it is refused. */
  async enrol(token: string): Promise<void> {
    const { url, role = this.host.kind } = this.#options;
    const argv = ["enrol", "--url", url, "--role", role, ...this.#where()];
    await this.host.ns.exec(this.#node(argv), { bareEnv: this.#env({ TRUNKLINE_TOKEN: token }), cwd: ROOT });
  }

  /** `run`. Resolves when the process exists; poll the control plane for its link. */
  start(): void {
    if (this.running) throw new Error(`the agent of ${this.host.name} already runs`);
    const argv = this.#node(["run", ...this.#where(), ...(this.#options.runArgs ?? [])]);
    this.#child = this.host.ns.spawn(argv, { bareEnv: this.#env({}), logFile: this.logFile, cwd: ROOT });
  }

  /** SIGTERM, and waits for its end. */
  async stop(): Promise<void> {
    if (this.#child) await stopChild(this.#child, "SIGTERM", 15_000);
  }

  /** SIGKILL: a crash. */
  async kill9(): Promise<void> {
    if (this.#child) await stopChild(this.#child, "SIGKILL");
  }

  async restart(): Promise<void> {
    await this.stop();
    this.start();
  }

  /** Reboots the host (same addresses, empty kernel, same folder) and starts the agent again, as systemd would. */
  async rebootHost(): Promise<void> {
    await this.host.reboot();
    this.start();
  }

  #where(): string[] {
    return ["--config", this.configFile, "--state-dir", this.stateDir];
  }

  #node(argv: readonly string[]): string[] {
    return [process.execPath, ...(this.#options.argv ?? ["agent/main.ts"]), ...argv];
  }

  #env(more: Record<string, string>): Record<string, string> {
    return { PATH: process.env.PATH ?? "", HOME: this.host.dir, ...this.#options.env, ...more };
  }
}

/** Enrols and starts an agent on a host. */
export async function enrolAgent(lab: Lab, host: LabHost, token: string, options: AgentOptions): Promise<LabAgent> {
  const agent = new LabAgent(lab, host, options);
  try {
    await agent.enrol(token);
  } catch (error) {
    throw new Error(`${host.name} could not enrol: ${error instanceof ExecError ? error.message : error}`);
  }
  agent.start();
  lab.onClose(() => agent.kill9());
  return agent;
}
