import { generateKeyPairSync, sign } from "node:crypto";
import { newId } from "../../shared/ids.ts";
import { type StateItem, stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import type { AgentFrame, ServerFrame, StateFrame, TaskFrame } from "../../shared/protocol/frames.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";
import { makeKeys, sha256OfCanonical, signer, verifier } from "../keys.ts";
import { LinkSession } from "../link/session.ts";
import type { SessionAction, SessionInput, SessionSetup } from "../link/session-types.ts";

export const HOST = newId("hst", 1, new Uint8Array(10).fill(1));
export const OTHER_HOST = newId("hst", 1, new Uint8Array(10).fill(2));
const START = 1_800_000_000_000;
const plane = generateKeyPairSync("ed25519");
const stranger = generateKeyPairSync("ed25519");
const planePublic = Buffer.from(plane.publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");
const agentKeys = makeKeys("exit");

export const relayItem = (id: string, port: number): StateItem => ({
  type: "relay",
  id,
  listen: { from: port, to: port },
  to: { address: "203.0.113.9", port: 51820 },
  driver: "nft",
});

/** A session with a clock in the test's hand, and a control plane's key to sign with. */
export class SessionBench {
  mono = 1000;
  wall = START;
  random = 0.5;
  readonly session: LinkSession;
  readonly agentKeys = agentKeys;
  #task = 0;

  constructor(more: Partial<SessionSetup> = {}) {
    this.session = new LinkSession({
      hostId: HOST,
      version: "0.1.0",
      bootId: "boot",
      capabilities: [],
      endpoints: ["https://one.example", "https://two.example"],
      controlPlaneKeyId: "key-1",
      epoch: 0,
      accepted: null,
      applied: null,
      sign: signer(agentKeys.identity),
      verify: verifier(planePublic),
      sha256: sha256OfCanonical,
      random: () => this.random,
      ...more,
    });
  }

  input(input: SessionInput): SessionAction[] {
    return this.session.handle(input, { mono: this.mono, wall: this.wall });
  }

  text(text: string): SessionAction[] {
    return this.input({ type: "text", text });
  }

  frame(frame: ServerFrame | Record<string, unknown>): SessionAction[] {
    return this.text(JSON.stringify(frame));
  }

  pass(ms: number): SessionAction[] {
    this.mono += ms;
    this.wall += ms;
    return this.input({ type: "tick" });
  }

  /** Up to the point where the server has to say welcome. */
  hello(): SessionAction[] {
    if (this.session.phase === "idle") this.input({ type: "start" });
    this.input({ type: "opened" });
    return this.frame({ t: "challenge", nonce: "0123456789abcdef", serverTime: this.wall });
  }

  welcome(more: { anyEvents?: boolean } = {}): SessionAction[] {
    const session = newId("lnk", Math.floor(this.wall), new Uint8Array(10));
    return this.frame({ t: "welcome", session, heartbeatMs: 15_000, silenceMs: 40_000, ...more });
  }

  state(
    rev: number,
    items: StateItem[],
    {
      hostId = HOST as string,
      key = plane,
      keyId = "key-1",
      unchanged = false,
      sha256 = sha256OfCanonical(items),
    } = {},
  ): StateFrame {
    const value = sign(null, stateSignedBytes({ hostId, rev, sha256 }), key.privateKey).toString("base64");
    return { t: "state", rev, sha256, items: unchanged ? null : items, signature: { keyId, value } };
  }

  task({ hostId = HOST as string, deadlineAt = this.wall + 10_000, key = plane, kind = "ping" } = {}): TaskFrame {
    this.#task += 1;
    const id = newId("tsk", Math.floor(this.wall), new Uint8Array(10).fill(this.#task));
    const params = { target: "10.13.13.2", interface: null, count: 1, intervalMs: 1000 };
    const bytes = taskSignedBytes({ hostId, id, kind, params, deadlineAt });
    const value = sign(null, bytes, key.privateKey).toString("base64");
    return { t: "task", id, kind, params, deadlineAt, signature: { keyId: "key-1", value } };
  }

  /** Linked with a first state. */
  link(rev = 1, items: StateItem[] = []): SessionAction[] {
    this.hello();
    this.welcome();
    return this.frame(this.state(rev, items));
  }
}

export const strangerKey = stranger;
export const types = (actions: readonly SessionAction[]) => actions.map((a) => a.type);
export const sent = (actions: readonly SessionAction[]): AgentFrame[] =>
  actions.flatMap((a) => (a.type === "send" ? [a.frame] : []));
