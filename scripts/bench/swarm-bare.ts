import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";
import { HEARTBEAT_MS } from "../../shared/protocol/frames.ts";
import { atRate, cpuNow, restingBytes, watchLag } from "./swarm-load.ts";
import { type ChangesResult, type ServerCommand, type ServerStats, SUB_PROTOCOL_BARE } from "./swarm-messages.ts";
import { serveParent } from "./swarm-process.ts";

/** The other side: a bare `ws` server that sends and receives as many and as long messages, and knows nothing. */
const lag = watchLag();
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  perMessageDeflate: false,
  handleProtocols: () => SUB_PROTOCOL_BARE,
});
const sent = new Map<string, number>();
let answered: number[] = [];
const PING = `p${" ".repeat(60)}`;
/** As long as the state of an exit with one line. */
const STATE = "s".repeat(760);

server.on("connection", (socket) => {
  socket.on("message", (data) => {
    const text = String(data);
    if (text.startsWith("{")) socket.send(text);
    if (!text.startsWith("c")) return;
    const at = sent.get(text.slice(0, 24));
    if (at === undefined) return;
    sent.delete(text.slice(0, 24));
    answered.push(performance.now() - at);
  });
  socket.on("error", () => {});
  const timer = setInterval(() => socket.send(PING), HEARTBEAT_MS);
  socket.on("close", () => clearInterval(timer));
});

async function changes(rate: number, seconds: number): Promise<ChangesResult> {
  const sockets: WebSocket[] = [...server.clients];
  answered = [];
  const cpuBefore = cpuNow();
  const from = performance.now();
  const made = await atRate(rate, seconds, (n) => {
    const name = `c${String(n).padEnd(23)}`;
    sent.set(name, performance.now());
    sockets[(n * 7919) % sockets.length]?.send(name + STATE);
  });
  const took = (performance.now() - from) / 1000;
  return {
    changesPerSecond: made / took,
    pushToAckMs: answered,
    changeToAckMs: answered,
    cpuSeconds: cpuNow() - cpuBefore,
    seconds: took,
  };
}

serveParent<ServerCommand>(async (command) => {
  if (command.do === "changes") return changes(command.rate, command.seconds);
  if (command.do === "resetLag") return lag.reset();
  const [lagP99Ms, lagMaxMs] = [lag.p99(), lag.max()];
  return {
    cpuSeconds: cpuNow(),
    rssBytes: await restingBytes(),
    joined: server.clients.size,
    opened: server.clients.size,
    superseded: 0,
    lagP99Ms,
    lagMaxMs,
  } satisfies ServerStats;
});
await once(server, "listening");
process.send?.({ ready: true, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
