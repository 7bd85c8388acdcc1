import { type KeyObject, sign } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import { reconnectDelay } from "../../agent/link/backoff.ts";
import { HEARTBEAT_MS, helloSignedBytes, type ServerFrame, SUBPROTOCOL } from "../../shared/protocol/frames.ts";
import { fleetId, fleetIdentity } from "./fleet-database.ts";
import { cpuNow } from "./swarm-load.ts";
import { type AgentsCommand, type AgentsStatus, SUB_PROTOCOL_BARE } from "./swarm-messages.ts";
import { serveParent } from "./swarm-process.ts";

/**
 * Plays hosts: real hellos, heartbeats, acks and the agent's own back-off, but no kernel behind them. In `bare` mode it sends
 * and answers as much without the protocol. Frames are not checked here: what is measured is the other side.
 */
class LightAgent {
  readonly #index: number;
  readonly #url: string;
  readonly #localAddress: string;
  readonly #bare: boolean;
  readonly #identity: KeyObject | undefined;
  #epoch = 0;
  #attempt = 0;
  #askedMs: number | undefined;
  #applied: { rev: number; sha256: string } | null = null;
  #heartbeat: NodeJS.Timeout | undefined;
  #pings = 0;
  linked = false;

  constructor(index: number, url: string, localAddress: string, bare: boolean) {
    this.#index = index;
    this.#url = url;
    this.#localAddress = localAddress;
    this.#bare = bare;
    this.#identity = bare ? undefined : fleetIdentity(index);
  }

  get rev(): number {
    return this.#applied?.rev ?? 0;
  }

  connect(): void {
    const socket = new WebSocket(this.#url, this.#bare ? SUB_PROTOCOL_BARE : SUBPROTOCOL, {
      perMessageDeflate: false,
      localAddress: this.#localAddress,
      handshakeTimeout: 15_000,
    });
    sockets++;
    socket.on("message", (data) => {
      if (this.#bare) this.#onBare(socket, String(data));
      else this.#onFrame(socket, JSON.parse(String(data)));
    });
    socket.on("open", () => {
      if (this.#bare) this.#becomeLinked(socket);
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      sockets--;
      this.linked = false;
      clearInterval(this.#heartbeat);
      failed++;
      const delay = reconnectDelay(this.#attempt++, Math.random(), this.#askedMs);
      this.#askedMs = undefined;
      setTimeout(() => this.connect(), delay);
    });
  }

  #becomeLinked(socket: WebSocket): void {
    this.linked = true;
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => {
      if (socket.readyState === WebSocket.OPEN)
        socket.send(JSON.stringify({ t: "ping", id: ++this.#pings, at: Date.now() }));
    }, HEARTBEAT_MS);
  }

  #onFrame(socket: WebSocket, frame: ServerFrame): void {
    switch (frame.t) {
      case "challenge": {
        const hostId = fleetId("hst", this.#index);
        const epoch = ++this.#epoch;
        const bytes = helloSignedBytes({ nonce: frame.nonce, hostId, epoch });
        const signature = sign(null, bytes, this.#identity as KeyObject).toString("base64");
        const hello = { t: "hello", hostId, epoch, signature, version: "0.1.0", bootId: "boot", capabilities: ["nft"] };
        socket.send(JSON.stringify({ ...hello, applied: this.#applied }));
        return;
      }
      case "welcome":
        this.#becomeLinked(socket);
        return;
      case "state": {
        this.#attempt = 0;
        this.#applied = { rev: frame.rev, sha256: frame.sha256 };
        const results = ["tunnel", "whitelist"].map((item) => ({ item, ok: true }));
        socket.send(JSON.stringify({ t: "ack", ...this.#applied, results }));
        return;
      }
      case "ping":
        socket.send(JSON.stringify({ t: "pong", id: frame.id, at: Date.now() }));
        return;
      case "bye":
        this.#askedMs = frame.reconnectAfterMs;
        this.#epoch = Math.max(this.#epoch, frame.epoch ?? 0);
    }
  }

  /** A change is answered with as much as an ack has; a ping with itself. */
  #onBare(socket: WebSocket, text: string): void {
    if (text.startsWith("c")) socket.send(`${text.slice(0, 24)}${BARE_ACK}`);
    else if (text.startsWith("p")) socket.send(`q${text.slice(1)}`);
  }
}

const BARE_ACK = "a".repeat(170);
const agents: LightAgent[] = [];
let sockets = 0;
let failed = 0;

serveParent<AgentsCommand>(async (command) => {
  if (command.do === "connect") {
    for (let index = command.from; index < command.to; index++) {
      const agent = new LightAgent(index, command.url, command.localAddress, command.bare);
      agents.push(agent);
      agent.connect();
      // Not all at once: the listening socket's queue holds some hundreds.
      if (index % 20 === 0) await sleep(20);
    }
    return agents.length;
  }
  const linked = agents.filter((agent) => agent.linked);
  const held = linked.filter((agent) => agent.rev >= command.rev).length;
  return { linked: linked.length, held, sockets, failed, cpuSeconds: cpuNow() } satisfies AgentsStatus;
});
process.send?.({ ready: true, url: "" });
