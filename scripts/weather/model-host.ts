import { cpSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { type Keys, sha256OfCanonical, signer, verifier } from "../../agent/keys.ts";
import { LinkSession } from "../../agent/link/session.ts";
import type { SessionAction, SessionInput } from "../../agent/link/session-types.ts";
import { Reconciler, type Report, targetOf } from "../../agent/reconcile.ts";
import { StateKeeper } from "../../agent/state-keeper.ts";
import { type KeptState, StateStore } from "../../agent/state-store.ts";
import { Watch } from "../../agent/watch.ts";
import type { Id } from "../../shared/ids.ts";
import type { EnrolResponse, HostRole } from "../../shared/protocol/enrolment.ts";
import type { AgentFrame } from "../../shared/protocol/frames.ts";
import type { Dice } from "../../shared/testing/dice.ts";
import { type Kernel, ModelHostDriver } from "./model-driver.ts";
import type { VirtualTime } from "./virtual-time.ts";
import type { NearSocket, Wire } from "./wire.ts";

const silent = { info() {}, warn() {}, error() {} };

/** Where a crash strikes the next time the agent writes that file. */
export type CrashPoint = { file: "state" | "epoch" | "applied"; moment: "before rename" | "after rename" };
class Crash extends Error {}

/** The agent's store, on a disk where the power can fail in the middle of a write. */
class CrashingStore extends StateStore {
  crash: CrashPoint | undefined;

  #strike(file: CrashPoint["file"], content: string, write: () => void) {
    if (this.crash?.file !== file) return write();
    const { moment } = this.crash;
    this.crash = undefined;
    // What is there after open, some of the writing, and no rename.
    if (moment === "before rename") writeFileSync(this.path(`${file}.json.new`), content.slice(0, content.length / 2));
    else write();
    throw new Crash(`power lost ${moment} of ${file}.json`);
  }

  override saveState(state: Parameters<StateStore["saveState"]>[0]): void {
    this.#strike("state", JSON.stringify(state), () => super.saveState(state));
  }
  override saveEpoch(epoch: number): void {
    this.#strike("epoch", JSON.stringify({ epoch }), () => super.saveEpoch(epoch));
  }
  override saveApplied(applied: Parameters<StateStore["saveApplied"]>[0]): void {
    this.#strike("applied", JSON.stringify(applied), () => super.saveApplied(applied));
  }
}

export interface HostSetup {
  time: VirtualTime;
  random: Dice;
  wire: Wire;
  id: Id<"hst">;
  role: HostRole;
  keys: Keys;
  controlPlaneKey: EnrolResponse["controlPlaneKey"];
  /** The state directory: what a reboot leaves. */
  dir: string;
  /** What this host has verified to hold, as `rev:sha256`; a clone shares it with its origin. */
  verified: Set<string>;
}

/** A host: a kernel, a disk, a clock of its own, and an agent that can die on it at any moment. */
export class ModelHost {
  readonly setup: HostSetup;
  readonly kernel: Kernel = new Map();
  /** Keys whose changes fail; "*" is all of them. */
  readonly broken = new Set<string>();
  /** Its wall clock less the true one, ms. */
  skewMs = 0;
  /** The greatest revision its agent has accepted on this disk. */
  faults: string[] = [];
  crashes = 0;
  #agent: AgentProcess | undefined;

  constructor(setup: HostSetup) {
    this.setup = setup;
  }

  get agent(): AgentProcess | undefined {
    return this.#agent;
  }

  /** Whether it ever verified that it holds this revision, or a later one. */
  hasVerified(rev: number): boolean {
    return [...this.setup.verified].some((claim) => Number(claim.split(":")[0]) >= rev);
  }

  readonly wall = (): number => this.setup.time.wall() + this.skewMs;

  /** Starts the agent, as systemd would. */
  start(): void {
    this.#agent ??= new AgentProcess(this);
  }

  /** kill -9: its sockets are reset, the kernel stays. */
  kill(): void {
    this.#agent?.die();
    this.#agent = undefined;
  }

  crashed(): void {
    this.crashes += 1;
    this.kill();
    this.setup.time.after(1000, () => this.start());
  }

  /** When that was, virtual ms. */
  readonly unplugged: number[] = [];

  /** The plug is pulled: nobody says goodbye, and the kernel holds nothing when it comes back. */
  reboot(): void {
    this.unplugged.push(this.setup.time.mono());
    this.setup.wire.hostVanished();
    this.#agent?.die({ silently: true });
    this.#agent = undefined;
    this.kernel.clear();
    this.setup.time.after(20_000, () => this.start());
  }

  /** A bad sector: the file of the last state is cut short. */
  damageState(share: number): void {
    const path = `${this.setup.dir}/state.json`;
    try {
      truncateSync(path, Math.floor(readFileSync(path).length * share));
    } catch {
      // There is none yet.
    }
  }

  /** Another machine with a copy of this one's disk, and a kernel of its own. */
  clone(wire: Wire, dir: string): ModelHost {
    cpSync(this.setup.dir, dir, { recursive: true });
    return new ModelHost({ ...this.setup, wire, dir });
  }
}

/** One process of the agent's core: the real session, reconciler, watch and store, over a model of kernel and network. */
class AgentProcess {
  readonly session: LinkSession;
  readonly reconciler: Reconciler;
  readonly store: CrashingStore;
  readonly #host: ModelHost;
  readonly #watch: Watch;
  readonly #startedAt: number;
  readonly #keeper = new StateKeeper((state) => this.#save(state));
  #socket: NearSocket | undefined;
  #callOff = () => {};
  #dead = false;

  constructor(host: ModelHost) {
    const { time, random, id, keys, controlPlaneKey, dir } = host.setup;
    this.#host = host;
    this.#startedAt = time.mono();
    this.store = new CrashingStore(dir, silent);
    const kept = this.store.state();
    const clock = { wall: host.wall, mono: this.#mono, wait: time.wait.bind(time) };
    const driver = new ModelHostDriver({
      kernel: host.kernel,
      work: async () => {
        await time.sleep(random() * 400);
        if (this.#dead) await new Promise(() => {});
      },
      mayChange(key) {
        if (host.broken.has(key) || host.broken.has("*")) throw new Error(`${key} is broken`);
      },
    });
    this.reconciler = new Reconciler({
      drivers: [driver],
      clock,
      log: silent,
      onReport: (report) => this.#reported(report),
      onEvents: (events) => this.#dead || this.#watch.events(events),
    });
    this.session = new LinkSession({
      hostId: id,
      version: "1.0.0",
      bootId: "boot",
      capabilities: [],
      endpoints: ["https://one.example", "https://two.example"],
      controlPlaneKeyId: controlPlaneKey.keyId,
      epoch: this.store.epoch(),
      accepted: kept && { rev: kept.rev, sha256: kept.sha256 },
      applied: kept && this.store.applied(),
      sign: signer(keys.identity),
      verify: verifier(controlPlaneKey.publicKey),
      sha256: sha256OfCanonical,
      random,
    });
    this.#watch = new Watch({
      clock,
      look: async () => ({ load1: 1 }),
      linked: () => !this.#dead && this.session.phase === "linked",
      send: (frame) => this.input({ type: "send", frame }),
    });
    const lastGood = kept && targetOf(kept);
    if (lastGood) this.reconciler.want(lastGood);
    void this.reconciler.run();
    void this.#watch.run();
    this.input({ type: "start" });
  }

  die({ silently = false } = {}): void {
    this.#dead = true;
    this.#callOff();
    this.reconciler.stop();
    this.#watch.stop();
    if (!silently) this.#socket?.close();
  }

  input(input: SessionInput): void {
    if (this.#dead) return;
    let queue = this.session.handle(input, this.#now());
    for (let i = 0; i < queue.length; i++) {
      try {
        this.#do(queue[i] as SessionAction);
      } catch (error) {
        if (error instanceof Crash) {
          this.#host.crashed();
          return;
        }
        this.#drop();
        queue = this.session.handle({ type: "closed", why: String(error) }, this.#now());
        i = -1;
      }
    }
    this.#arm();
  }

  #do(action: SessionAction) {
    switch (action.type) {
      case "connect":
        return this.#connect();
      case "close":
        return this.#drop();
      case "send":
        return this.#send(action.frame);
      case "saveEpoch":
        return this.store.saveEpoch(action.epoch);
      case "saveApplied":
        return this.store.saveApplied(action.applied);
      case "accept": {
        const before = this.store.state()?.rev ?? -1;
        if (action.state.rev < before) this.#host.faults.push(`accepted ${action.state.rev} after ${before}`);
        this.reconciler.want({ rev: action.state.rev, sha256: action.state.sha256, ...action.read });
        return this.#keeper.accept(action.state);
      }
      case "recheck":
        return this.reconciler.recheck();
      case "event":
        return this.#watch.events([action.event]);
      case "linked":
        setImmediate(() => this.#watch.linked());
        return;
    }
  }

  #connect(): void {
    const socket = this.#host.setup.wire.connect({
      opened: () => this.#hear(socket, { type: "opened" }),
      text: (text) => this.#hear(socket, { type: "text", text }),
      closed: (why) => this.#hear(socket, { type: "closed", why }),
    });
    this.#socket = socket;
  }

  #hear(socket: NearSocket, input: SessionInput): void {
    if (this.#socket !== socket) return;
    if (input.type === "closed") this.#socket = undefined;
    this.input(input);
  }

  #drop(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
  }

  #send(frame: AgentFrame): void {
    this.#socket?.send(JSON.stringify(frame));
  }

  /** A process that dies before the next turn has not written it. */
  #save(state: KeptState): void {
    if (this.#dead) return;
    try {
      this.store.saveState(state);
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      this.#host.crashed();
    }
  }

  #reported(report: Report): void {
    if (!this.#dead) this.#keeper.flush();
    if (this.#dead) return;
    if (report.allOk) this.#host.setup.verified.add(`${report.rev}:${report.sha256}`);
    this.input({ type: "report", ...report });
  }

  #arm(): void {
    this.#callOff();
    const at = this.session.nextWake();
    if (at === undefined || this.#dead) return;
    this.#callOff = this.#host.setup.time.after(at - this.#mono(), () => this.input({ type: "tick" }));
  }

  readonly #mono = () => this.#host.setup.time.mono() - this.#startedAt;
  readonly #now = () => ({ mono: this.#mono(), wall: this.#host.wall() });
}
