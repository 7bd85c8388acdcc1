import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import type { LinkProxyItem } from "../../shared/protocol/desired-state.ts";
import { parseCidr4 } from "../../shared/protocol/values.ts";

/** Connections at once, in all and from one address, which many hosts may stand behind: each has one link, for a
 * moment two, and now and then a download or an upload. */
const MAX_CONNECTIONS = 1024;
const MAX_PER_SOURCE = 64;
const CONNECT_MS = 10_000;
/** A link speaks every 15 s; what is silent for so long is none. */
const IDLE_MS = 90_000;

/** The pass-through on a forward host, by which hosts whose direct way is blocked reach the control plane. */
export interface LinkProxy {
  /** Listens where these items say and nowhere else, for the sources they name. Throws when an address can't be listened on. */
  configure(items: readonly LinkProxyItem[]): Promise<void>;
  /** Connections passed on now. */
  readonly connections: number;
  close(): Promise<void>;
}

type Listener = { server: Server; sockets: Set<Socket>; allow: LinkProxyItem["allow"] };

/**
 * Makes a pass-through that listens nowhere yet. Whatever it is asked, it connects to one place: the control plane that this
 * host itself uses. It holds no more bytes than the sockets' own buffers: reading waits for writing.
 *
 * @param target base URL of the control plane
 */
export function createLinkProxy(target: string): LinkProxy {
  const { hostname, port, protocol } = new URL(target);
  const to = { host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || (protocol === "http:" ? 80 : 443)) };
  const listeners = new Map<string, Listener>();
  const bySource = new Map<string, number>();

  function pass(socket: Socket, listener: Listener): void {
    const source = (socket.remoteAddress ?? "").replace(/^::ffff:/, "");
    const held = bySource.get(source) ?? 0;
    if (held >= MAX_PER_SOURCE || !isAllowed(source, listener.allow)) {
      socket.destroy();
      return;
    }
    bySource.set(source, held + 1);
    listener.sockets.add(socket);
    const out = connect({ ...to, allowHalfOpen: true });
    const late = setTimeout(() => out.destroy(), CONNECT_MS);
    out.once("connect", () => clearTimeout(late));
    for (const [one, other] of [
      [socket, out],
      [out, socket],
    ] as const) {
      one.pipe(other);
      one.setTimeout(IDLE_MS, () => one.destroy());
      one.on("error", () => {}); // its close follows
      one.once("close", () => other.destroy());
    }
    socket.once("close", () => {
      clearTimeout(late);
      listener.sockets.delete(socket);
      const left = (bySource.get(source) ?? 1) - 1;
      if (left > 0) bySource.set(source, left);
      else bySource.delete(source);
    });
  }

  function start(allow: LinkProxyItem["allow"]): Listener {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => pass(socket, listener));
    const listener: Listener = { server, sockets: new Set(), allow };
    server.maxConnections = MAX_CONNECTIONS;
    server.on("error", () => {}); // one that can't accept is not the agent's end
    return listener;
  }

  async function configure(items: readonly LinkProxyItem[]): Promise<void> {
    const wanted = new Map(items.map((item) => [`${item.address}:${item.port}`, item]));
    for (const [key, listener] of listeners) {
      const item = wanted.get(key);
      // Links of sources that may still come are not cut for a change to others.
      if (item !== undefined) listener.allow = item.allow;
      for (const socket of listener.sockets)
        if (item === undefined || !isAllowed((socket.remoteAddress ?? "").replace(/^::ffff:/, ""), item.allow))
          socket.destroy();
      if (item !== undefined) continue;
      listeners.delete(key);
      await new Promise<void>((resolve) => listener.server.close(() => resolve()));
    }
    for (const [key, item] of wanted) {
      if (listeners.has(key)) continue;
      const listener = start(item.allow);
      listener.server.listen(item.port, item.address);
      await once(listener.server, "listening");
      listeners.set(key, listener);
    }
  }

  return {
    configure,
    get connections() {
      return [...listeners.values()].reduce((sum, { sockets }) => sum + sockets.size, 0);
    },
    close: () => configure([]),
  };
}

function isAllowed(source: string, allow: LinkProxyItem["allow"]): boolean {
  const own = parseCidr4(`${source}/32`);
  return own !== undefined && allow.some((net) => contains(net, own.first));
}

function contains(net: string, address: number): boolean {
  const range = parseCidr4(net);
  return range !== undefined && range.first <= address && address <= range.last;
}
