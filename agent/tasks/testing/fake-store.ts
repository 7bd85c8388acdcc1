import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";

/** What the fake control plane does with one PUT instead of taking it. */
export type Fault =
  | "500"
  | "409"
  /** Stores half of the chunk, then the connection dies. */
  | "cut-half"
  /** Stores all of it, then the connection dies before the answer. */
  | "cut-after"
  | "403"
  /** Takes nothing and says nothing until {@link FakeStore.release}. */
  | "stall";

/** The control plane's end of an upload, as the protocol has it: `PUT path?offset=N`, `HEAD path`. */
export interface FakeStore {
  server: Server;
  /** Everything stored, by path. */
  stored(path: string): Buffer;
  /** For the next PUTs, in this order. */
  faults: Fault[];
  /** Lets stalled PUTs go on. */
  release(): void;
  puts: { offset: number; bytes: number; authorization: string | undefined }[];
  close(): Promise<void>;
}

/** Makes the server; the caller listens. */
export function createFakeStore(): FakeStore {
  const files = new Map<string, Buffer>();
  const stalled: (() => void)[] = [];
  const store: FakeStore = {
    server: createServer((request, response) => void handle(request, response)),
    stored: (path) => files.get(path) ?? Buffer.alloc(0),
    faults: [],
    release: () => {
      for (const go of stalled.splice(0)) go();
    },
    puts: [],
    close: () => {
      store.release();
      store.server.closeAllConnections();
      return new Promise((resolve) => store.server.close(() => resolve()));
    },
  };

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://fake");
    const held = store.stored(url.pathname);
    if (request.method === "HEAD") {
      response.writeHead(200, { "upload-offset": held.length }).end();
      return;
    }
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const body = Buffer.concat(parts);
    const offset = Number(url.searchParams.get("offset"));
    store.puts.push({ offset, bytes: body.length, authorization: request.headers.authorization });
    const keep = (bytes: Buffer) => files.set(url.pathname, Buffer.concat([held, bytes]));
    const fault = store.faults.shift();
    if (fault === "stall") await new Promise<void>((resolve) => stalled.push(resolve));
    else if (fault === "cut-half" || fault === "cut-after") {
      keep(fault === "cut-half" ? body.subarray(0, body.length >> 1) : body);
      request.socket.destroy();
      return;
    } else if (fault !== undefined) {
      response.writeHead(Number(fault)).end();
      return;
    }
    if (offset !== held.length) {
      response.writeHead(409).end();
      return;
    }
    keep(body);
    response.setHeader("content-type", "application/json").end(JSON.stringify({ size: offset + body.length }));
  }
  return store;
}
