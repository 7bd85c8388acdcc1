import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Namespace } from "../../scripts/lab/netns.ts";
import { poll } from "../../scripts/lab/poll.ts";
import { stopChild } from "../../scripts/lab/process.ts";
import { TestControlPlane } from "./control-plane.ts";

const ROOT = join(import.meta.dirname, "../..");
const URL = "http://127.0.0.1:8080";

/** A real agent in a namespace, and a test's control plane that only it can reach. */
export class AgentInNamespace {
  readonly ns: Namespace;
  readonly plane: TestControlPlane;
  readonly stateDir: string;
  readonly #configFile: string;
  child: ChildProcess | undefined;

  private constructor(ns: Namespace, plane: TestControlPlane) {
    this.ns = ns;
    this.plane = plane;
    this.stateDir = join(ns.dir, "state");
    this.#configFile = join(ns.dir, "agent.json");
  }

  static async create(ns: Namespace, role: string): Promise<AgentInNamespace> {
    const agent = new AgentInNamespace(ns, new TestControlPlane());
    const socket = join(ns.dir, "control-plane.sock");
    await agent.plane.listenAt(socket);
    await agent.forward();
    await ns.exec(agent.#argv("enrol", "--url", URL, "--role", role), {
      bareEnv: { PATH: process.env.PATH ?? "", TRUNKLINE_TOKEN: agent.plane.token },
      cwd: ROOT,
    });
    return agent;
  }

  /** Lets the namespace reach the control plane. */
  async forward(ns: Namespace = this.ns): Promise<void> {
    const socket = join(this.ns.dir, "control-plane.sock");
    ns.spawn(["socat", "TCP-LISTEN:8080,fork,reuseaddr,bind=127.0.0.1", `UNIX-CONNECT:${socket}`]);
    await poll(async () => (await ns.exec(["ss", "-Hltn", "sport = :8080"])).stdout !== "", { what: "socat" });
  }

  get logFile(): string {
    return join(this.ns.dir, "agent.log");
  }

  log(): string {
    return readFileSync(this.logFile, "utf8");
  }

  /** The same agent for another namespace: a reboot that kept the disk. */
  start(ns: Namespace = this.ns): void {
    this.child = ns.spawn(this.#argv("run"), {
      bareEnv: { PATH: process.env.PATH ?? "" },
      cwd: ROOT,
      logFile: this.logFile,
    });
  }

  #argv(command: string, ...more: string[]): string[] {
    const where = ["--config", this.#configFile, "--state-dir", this.stateDir];
    return [process.execPath, join(ROOT, "agent/main.ts"), command, ...where, ...more];
  }

  status(): Promise<{ stdout: string }> {
    return this.ns.exec(this.#argv("status"), { cwd: ROOT });
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    if (this.child) await stopChild(this.child, signal);
  }

  /** Waits for the ack of a revision. */
  async acked(rev: number) {
    return poll(() => this.plane.ackOf(rev), { what: `the ack of revision ${rev}`, timeoutMs: 30_000 });
  }
}
