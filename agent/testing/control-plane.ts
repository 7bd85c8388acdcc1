import { generateKeyPairSync, sign } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";
import { type Id, newId } from "../../shared/ids.ts";
import { type StateItem, stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import { type EnrolRequest, enrolRequestSchema } from "../../shared/protocol/enrolment.ts";
import {
  type AgentFrame,
  helloSignedBytes,
  parseAgentFrame,
  type ServerFrame,
  SUBPROTOCOL,
  type TaskFrame,
} from "../../shared/protocol/frames.ts";
import { type TaskRequest, taskSignedBytes } from "../../shared/protocol/tasks.ts";
import { sha256OfCanonical, verifier } from "../keys.ts";

const random = () => crypto.getRandomValues(new Uint8Array(10));

/** Just enough of a control plane to hold one agent's link in a test: it signs like the real one and keeps every frame. */
export class TestControlPlane {
  readonly frames: AgentFrame[] = [];
  readonly hostId: Id<"hst"> = newId("hst", Date.now(), random());
  readonly token = "tl_enr_0123456789abcdef";
  readonly #key = generateKeyPairSync("ed25519");
  readonly keyId = "test-1";
  readonly #http: Server;
  readonly #wss = new WebSocketServer({ noServer: true, handleProtocols: () => SUBPROTOCOL });
  #socket: WebSocket | undefined;
  enrolled: EnrolRequest | undefined;
  state: { rev: number; items: StateItem[] } = { rev: 0, items: [] };
  /** When set, upgrades are answered with this. */
  refuseWith: { status: number; retryAfter?: string } | undefined;
  hellos = 0;
  heartbeatMs = 15_000;
  silenceMs = 40_000;

  constructor() {
    this.#http = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const answer = this.#enrol(request.headers.authorization, Buffer.concat(chunks).toString());
        response.writeHead(answer.status, { "content-type": "application/json" });
        response.end(JSON.stringify(answer.body));
      });
    });
    this.#http.on("upgrade", (request, socket, head) => {
      if (this.refuseWith) {
        const { status, retryAfter } = this.refuseWith;
        const header = retryAfter === undefined ? "" : `Retry-After: ${retryAfter}\r\n`;
        socket.end(`HTTP/1.1 ${status} Refused\r\n${header}Content-Length: 0\r\nConnection: close\r\n\r\n`);
        return;
      }
      this.#wss.handleUpgrade(request, socket, head, (ws) => this.#link(ws));
    });
  }

  get publicKey(): string {
    return Buffer.from(this.#key.publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");
  }

  /** Listens; the base URL on this machine. */
  async listen(port = 0, host = "127.0.0.1"): Promise<string> {
    await new Promise<void>((resolve) => this.#http.listen(port, host, resolve));
    return `http://${host}:${(this.#http.address() as AddressInfo).port}`;
  }

  /** Listens on a Unix socket, which a namespace can reach by a file both see. */
  async listenAt(path: string): Promise<void> {
    await new Promise<void>((resolve) => this.#http.listen(path, resolve));
  }

  async close(): Promise<void> {
    for (const client of this.#wss.clients) client.terminate();
    this.#http.closeAllConnections();
    await new Promise((resolve) => this.#http.close(resolve));
  }

  get linked(): boolean {
    return this.#socket !== undefined;
  }

  /** Wants these items from now on, and says so when there is a link. */
  want(rev: number, items: StateItem[]): void {
    this.state = { rev, items };
    if (this.#socket) this.send(this.stateFrame());
  }

  stateFrame(items: StateItem[] | null = this.state.items): ServerFrame {
    const { rev } = this.state;
    const sha256 = sha256OfCanonical(this.state.items);
    const value = this.#sign(stateSignedBytes({ hostId: this.hostId, rev, sha256 }));
    return { t: "state", rev, sha256, items, signature: { keyId: this.keyId, value } };
  }

  task(request: TaskRequest, deadlineAt: number): TaskFrame {
    const id = newId("tsk", Date.now(), random());
    const value = this.#sign(taskSignedBytes({ hostId: this.hostId, id, ...request, deadlineAt }));
    return { t: "task", id, ...request, deadlineAt, signature: { keyId: this.keyId, value } };
  }

  send(frame: ServerFrame): void {
    this.#socket?.send(JSON.stringify(frame));
  }

  drop(): void {
    this.#socket?.terminate();
  }

  /** The last ack of a revision, when it came. */
  ackOf(rev: number) {
    return this.frames.findLast((f): f is Extract<AgentFrame, { t: "ack" }> => f.t === "ack" && f.rev === rev);
  }

  #sign(bytes: Uint8Array): string {
    return sign(null, bytes, this.#key.privateKey).toString("base64");
  }

  #enrol(authorization: string | undefined, body: string): { status: number; body: unknown } {
    if (authorization !== `Bearer ${this.token}`)
      return { status: 403, body: { code: "enrolment_refused", detail: "The enrolment token is not valid." } };
    this.enrolled = enrolRequestSchema.parse(JSON.parse(body));
    return {
      status: 200,
      body: { hostId: this.hostId, controlPlaneKey: { keyId: this.keyId, publicKey: this.publicKey } },
    };
  }

  #link(ws: WebSocket): void {
    const nonce = Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString("base64");
    ws.send(JSON.stringify({ t: "challenge", nonce, serverTime: Date.now() } satisfies ServerFrame));
    ws.on("close", () => {
      if (this.#socket === ws) this.#socket = undefined;
    });
    ws.on("error", () => {});
    ws.on("message", (data) => {
      const parsed = parseAgentFrame(String(data));
      if (parsed.kind !== "frame") return ws.close(4001, parsed.kind === "bad" ? parsed.reason : "unknown");
      const { frame } = parsed;
      this.frames.push(frame);
      if (frame.t === "ping") ws.send(JSON.stringify({ t: "pong", id: frame.id, at: Date.now() }));
      if (frame.t !== "hello") return;
      this.hellos += 1;
      const { hostId, epoch, signature, applied } = frame;
      const identity = verifier(this.enrolled?.identityPublicKey ?? "");
      if (!identity(helloSignedBytes({ nonce, hostId, epoch }), signature)) return ws.close(4003, "bad signature");
      this.#socket = ws;
      const { heartbeatMs, silenceMs } = this;
      ws.send(JSON.stringify({ t: "welcome", session: newId("lnk", Date.now(), random()), heartbeatMs, silenceMs }));
      const same = applied?.rev === this.state.rev && applied.sha256 === sha256OfCanonical(this.state.items);
      ws.send(JSON.stringify(this.stateFrame(same ? null : this.state.items)));
    });
  }
}
