import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import type { UplinkItem } from "../../shared/protocol/desired-state.ts";
import type { UplinkParams, UplinkResult } from "../../shared/protocol/tasks.ts";
import { isPrivateAddress } from "../../shared/protocol/values.ts";
import { openUplinkKeys } from "./sealed-keys.ts";
import { type TaskContext, TaskError, type TaskRunner } from "./types.ts";
import { FrameReader, frameHeader, UPLINK_TLS } from "./uplink-frames.ts";
import { Upload } from "./upload.ts";

/** Connections at once on one listener, those that have shown no key yet included. */
const MAX_CONNECTIONS = 64;
const HANDSHAKE_MS = 10_000;

/** The receiving end of captures on a forward host: an `uplink` item says where it listens, an `uplink` task lets one sender in. */
export interface Uplink {
  /** Listens where these items say and nowhere else. Throws when an address can't be listened on. */
  configure(items: readonly UplinkItem[]): Promise<void>;
  /** Waits for the holder of one ticket and passes what it sends to the control plane. */
  run: TaskRunner<UplinkParams>;
  /** Where it listens now. */
  listening(): { address: string; port: number }[];
  /** Stops listening and cuts every connection. */
  close(): Promise<void>;
}

/** A ticket that may be used now. Forgotten as soon as its task ends. */
interface Ticket {
  psk: Uint8Array;
  /** Resolved by the first connection that proves the key. */
  arrive(socket: TLSSocket): void;
  taken: boolean;
}

/**
 * Makes an uplink that listens nowhere yet. Errors of its task: `no_uplink` (no listener), `uplink_unused` (nobody came),
 * `uplink_cut` (the sender went without saying the end, or time was up), `ticket_exhausted` (more bytes than allowed),
 * `upload_refused` (the control plane does not want it), `bad_sealed`.
 */
export function createUplink(): Uplink {
  const tickets = new Map<string, Ticket>();
  const identities = new WeakMap<TLSSocket, string>();
  const servers = new Map<string, { server: Server; sockets: Set<TLSSocket> }>();

  function start(): { server: Server; sockets: Set<TLSSocket> } {
    const sockets = new Set<TLSSocket>();
    const server = createServer({
      ...UPLINK_TLS,
      handshakeTimeout: HANDSHAKE_MS,
      pskCallback: (socket, identity) => {
        const ticket = tickets.get(identity);
        if (!ticket || ticket.taken) return null;
        identities.set(socket, identity);
        return ticket.psk;
      },
    });
    server.maxConnections = MAX_CONNECTIONS;
    server.on("secureConnection", (socket) => {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
      socket.on("error", () => {}); // its reader sees it too
      const ticket = tickets.get(identities.get(socket) ?? "");
      // Two can prove the same key at once; the first one in has it.
      if (!ticket || ticket.taken) socket.destroy();
      else {
        ticket.taken = true;
        ticket.arrive(socket);
      }
    });
    server.on("error", () => {}); // one that can't accept is not the agent's end
    return { server, sockets };
  }

  async function configure(items: readonly UplinkItem[]): Promise<void> {
    const wanted = new Map(items.map((item) => [`${item.address}:${item.port}`, item]));
    for (const [key, entry] of servers) {
      if (wanted.has(key)) continue;
      servers.delete(key);
      await stop(entry);
    }
    for (const [key, { address, port }] of wanted) {
      if (servers.has(key)) continue;
      if (!isPrivateAddress(address)) throw new Error(`an uplink listens on a private address only, not on ${address}`);
      const entry = start();
      entry.server.listen(port, address);
      await once(entry.server, "listening");
      servers.set(key, entry);
    }
  }

  const run: TaskRunner<UplinkParams> = async (params, ctx): Promise<UplinkResult> => {
    if (servers.size === 0) throw new TaskError("no_uplink", "this host accepts no captures of others");
    const { psk, uploadToken } = openUplinkKeys(params.sealed, ctx);
    if (tickets.has(params.ticket)) throw new TaskError("ticket_in_use", "this ticket is already being used");
    const arrival = Promise.withResolvers<TLSSocket>();
    tickets.set(params.ticket, { psk, arrive: arrival.resolve, taken: false });
    let socket: TLSSocket | undefined;
    const abort = () => {
      arrival.reject(new TaskError("uplink_unused", "nobody came with this ticket"));
      socket?.destroy();
    };
    ctx.signal.addEventListener("abort", abort, { once: true });
    try {
      if (ctx.signal.aborted) abort();
      // Whoever asked sends the other host only now: earlier its ticket would not be known here.
      ctx.emit({ type: "waiting", at: ctx.now() });
      socket = await arrival.promise;
      return { bytes: await receive(socket, params, uploadToken, ctx) };
    } finally {
      ctx.signal.removeEventListener("abort", abort);
      tickets.delete(params.ticket);
      socket?.destroy();
    }
  };

  return {
    configure,
    run,
    listening: () =>
      [...servers.values()].map(({ server }) => {
        const { address, port } = server.address() as AddressInfo;
        return { address, port };
      }),
    close: () => configure([]),
  };
}

async function stop({ server, sockets }: { server: Server; sockets: Set<TLSSocket> }): Promise<void> {
  for (const socket of sockets) socket.destroy();
  await new Promise<void>((resolve) => server.close(() => resolve()));
}

/** Reads one capture to its end and has it stored. Reading waits while the upload does, so memory is bounded. */
async function receive(socket: TLSSocket, params: UplinkParams, token: string, ctx: TaskContext): Promise<number> {
  const upload = new Upload({ way: () => ctx.way(), path: params.uploadPath, token, signal: ctx.signal });
  const frames = new FrameReader();
  let received = 0;
  // A failed upload must end a sender that is silent just now.
  upload.failed.addEventListener("abort", () => socket.destroy());
  try {
    // Left open after the end was said: the answer goes back on it.
    for await (const piece of socket.iterator({ destroyOnReturn: false })) {
      for (const bytes of frames.feed(piece as Buffer)) {
        received += bytes.length;
        if (received > params.bytes) {
          throw new TaskError("ticket_exhausted", `the sender sent more than the ${params.bytes} bytes of its ticket`);
        }
        await upload.write(bytes);
      }
      if (frames.ended) break;
    }
    if (!frames.ended) throw new TaskError("uplink_cut", `the sender went away after ${received} bytes`);
    const stored = await upload.finish();
    socket.end(frameHeader(0)); // the sender's proof that all of it is stored
    socket.resume(); // a socket that nobody reads never notices that the other side closed
    await once(socket, "close").catch(() => {});
    return stored;
  } catch (error) {
    upload.abandon();
    if (upload.failed.aborted) throw upload.failed.reason;
    if (error instanceof TaskError) throw error;
    const why = ctx.signal.aborted ? "time was up" : error instanceof Error ? error.message : String(error);
    throw new TaskError("uplink_cut", `the connection was cut after ${received} bytes: ${why}`);
  }
}
