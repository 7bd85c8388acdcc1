import { createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from "node:crypto";
import { vi } from "vitest";
import { WebSocket } from "ws";
import { toBase64 } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import { stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import type { EnrolResponse, HostRole } from "../../shared/protocol/enrolment.ts";
import {
  helloSignedBytes,
  parseServerFrame,
  type ServerFrame,
  type StateFrame,
  SUBPROTOCOL,
  type TaskFrame,
} from "../../shared/protocol/frames.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";

type Frame<T extends ServerFrame["t"]> = Extract<ServerFrame, { t: T }>;

function rawPublic(key: KeyObject): string {
  return Buffer.from(key.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");
}

/** Just enough of an agent to hold one host's link in a test: it signs like the real one and keeps every frame. */
export class FakeAgent {
  readonly role: HostRole;
  readonly #identity = generateKeyPairSync("ed25519");
  hostId = "" as Id<"hst">;
  controlPlaneKey: EnrolResponse["controlPlaneKey"] = { keyId: "", publicKey: "" };
  epoch = 0;
  /** Acknowledges each state as soon as it comes. */
  autoAck = true;
  /** Its clock less the true one, ms. */
  clockOffsetMs = 0;
  /** What it says it understands; undefined like an agent of before there was such a list. */
  understands: unknown;
  #link: FakeLink | undefined;

  constructor(role: HostRole) {
    this.role = role;
  }

  get link(): FakeLink {
    if (this.#link === undefined) throw new Error("the agent has no link");
    return this.#link;
  }

  async enrol(url: string, token: string): Promise<void> {
    const key = () => rawPublic(generateKeyPairSync("x25519").publicKey);
    const response = await fetch(`${url}/agent/enrol`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({
        role: this.role,
        version: "1.0.0",
        identityPublicKey: rawPublic(this.#identity.publicKey),
        boxPublicKey: key(),
        wireguardPublicKey: this.role === "exit" ? key() : null,
        facts: { hostname: this.role, os: "test", kernel: "0", arch: "x64", capabilities: [], addresses: [] },
      }),
    });
    if (response.status !== 201) throw new Error(`enrolment: ${response.status} ${await response.text()}`);
    ({ hostId: this.hostId, controlPlaneKey: this.controlPlaneKey } = (await response.json()) as EnrolResponse);
  }

  /** Opens a link and says hello, by default with the next epoch. Does not wait for an answer. */
  dial(
    url: string,
    {
      epoch = this.epoch + 1,
      signer = this as FakeAgent,
      applied = null as unknown,
      accepted = undefined as unknown,
    } = {},
  ): FakeLink {
    const link = new FakeLink(url, (nonce) => ({
      t: "hello",
      hostId: this.hostId,
      epoch,
      signature: signer.signHello(nonce, this.hostId, epoch),
      version: "1.0.0",
      bootId: "boot",
      capabilities: [],
      applied,
      accepted,
      understands: this.understands,
    }));
    link.clockOffsetMs = this.clockOffsetMs;
    link.onState = (state) => {
      if (this.autoAck) link.ack(state);
    };
    return link;
  }

  /** Opens a link and waits until it has the first state. */
  async join(url: string): Promise<FakeLink> {
    const link = this.dial(url);
    this.epoch++;
    this.#link = link;
    await link.next("state");
    return link;
  }

  signHello(nonce: string, hostId: string, epoch: number): string {
    return toBase64(sign(null, helloSignedBytes({ nonce, hostId, epoch }), this.#identity.privateKey));
  }

  /** True when the state was signed by the control plane's pinned key, for this host. */
  trusts(state: StateFrame): boolean {
    return this.#verify(
      stateSignedBytes({ hostId: this.hostId, rev: state.rev, sha256: state.sha256 }),
      state.signature,
    );
  }

  /** The same of a task. */
  trustsTask({ id, kind, params, deadlineAt, signature }: TaskFrame): boolean {
    return this.#verify(taskSignedBytes({ hostId: this.hostId, id, kind, params, deadlineAt }), signature);
  }

  #verify(bytes: Uint8Array, signature: StateFrame["signature"]): boolean {
    const x = Buffer.from(this.controlPlaneKey.publicKey, "base64").toString("base64url");
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    return (
      signature.keyId === this.controlPlaneKey.keyId && verify(null, bytes, key, Buffer.from(signature.value, "base64"))
    );
  }
}

/** One socket of a fake agent. */
export class FakeLink {
  readonly frames: ServerFrame[] = [];
  readonly #socket: WebSocket;
  closed: { code: number; reason: string } | undefined;
  onState: (state: StateFrame) => void = () => {};
  /** This host's clock less the true one, ms. */
  clockOffsetMs = 0;

  constructor(url: string, hello: (nonce: string) => unknown, protocols: string[] = [SUBPROTOCOL]) {
    this.#socket = new WebSocket(`${url.replace(/^http/, "ws")}/agent/link`, protocols);
    this.#socket.on("error", () => {});
    this.#socket.on("close", (code, reason) => {
      this.closed = { code, reason: reason.toString() };
    });
    this.#socket.on("message", (data) => {
      const parsed = parseServerFrame(String(data));
      if (parsed.kind !== "frame") throw new Error(`the control plane sent ${String(data).slice(0, 100)}`);
      const { frame } = parsed;
      this.frames.push(frame);
      if (frame.t === "challenge") this.send(hello(frame.nonce));
      else if (frame.t === "ping") this.send({ t: "pong", id: frame.id, at: Date.now() + this.clockOffsetMs });
      else if (frame.t === "state") this.onState(frame);
    });
  }

  send(frame: unknown): void {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#socket.send(typeof frame === "string" || frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  ack(state: { rev: number; sha256: string }, results: { item: string; ok: boolean; error?: string }[] = []): void {
    this.send({ t: "ack", rev: state.rev, sha256: state.sha256, results });
  }

  of<T extends ServerFrame["t"]>(t: T): Frame<T>[] {
    return this.frames.filter((frame): frame is Frame<T> => frame.t === t);
  }

  /** Waits for the first frame of a type that a predicate takes. */
  next<T extends ServerFrame["t"]>(t: T, is: (frame: Frame<T>) => boolean = () => true): Promise<Frame<T>> {
    return vi.waitFor(
      () => {
        const found = this.of(t).find(is);
        if (found === undefined) throw new Error(`no ${t} among ${this.frames.map((frame) => frame.t).join(", ")}`);
        return found;
      },
      { timeout: 10_000, interval: 5 },
    );
  }

  gone(): Promise<{ code: number; reason: string }> {
    return vi.waitFor(
      () => {
        if (this.closed === undefined) throw new Error("the link is open");
        return this.closed;
      },
      { timeout: 10_000, interval: 5 },
    );
  }

  /** The socket dies without a word. */
  cut(): void {
    this.#socket.terminate();
  }
}
