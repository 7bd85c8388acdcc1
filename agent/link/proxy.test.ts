import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { beforeEach, expect, test } from "vitest";
import { createLinkProxy, type LinkProxy } from "./proxy.ts";

let plane: Server;
let target: string;
let proxy: LinkProxy;
let port: number;
let open: Socket[];

/** A free port: one that was just let go. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port: free } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return free;
}

const configure = (allow: string[]) =>
  proxy.configure([{ type: "linkProxy", id: "link-proxy", address: "127.0.0.1", port, allow }]);

/** Comes from that address; answers what comes back, or "closed". */
function dial(localAddress = "127.0.0.1"): Socket {
  const socket = connect({ host: "127.0.0.1", port, localAddress });
  socket.on("error", () => {});
  open.push(socket);
  return socket;
}
const reply = (socket: Socket, text = "hello") => {
  socket.write(text);
  return new Promise<string>((resolve) => {
    socket.once("data", (piece) => resolve(String(piece)));
    socket.once("close", () => resolve("closed"));
  });
};

beforeEach(async () => {
  open = [];
  // Stands for the control plane: says back what it hears.
  plane = createServer((socket) => socket.on("error", () => {}).pipe(socket)).listen(0, "127.0.0.1");
  await once(plane, "listening");
  target = `http://127.0.0.1:${(plane.address() as AddressInfo).port}`;
  proxy = createLinkProxy(target);
  port = await freePort();
  return async () => {
    for (const socket of open) socket.destroy();
    await proxy.close();
    plane.close();
  };
});
test("bytes pass both ways to the control plane, unchanged, for a source that is named", async () => {
  await configure(["127.0.0.1/32"]);
  const sent = "x".repeat(1_000_000);
  const socket = dial();
  let back = "";
  socket.on("data", (piece) => {
    back += piece;
  });
  socket.end(sent);
  await once(socket, "close");
  expect(back).toBe(sent);
  await expect.poll(() => proxy.connections).toBe(0);
});

test("a source that is not named is cut before a byte is passed on, and one of a named network is not", async () => {
  let reached = 0;
  plane.on("connection", () => reached++);
  await configure(["127.0.0.9/32", "127.0.1.0/24"]);
  expect(await reply(dial())).toBe("closed");
  expect(reached).toBe(0);
  expect(await reply(dial("127.0.1.77"))).toBe("hello");
});

test("one source, be it many hosts behind one address, holds so many connections and no more, and takes none of another's", async () => {
  await configure(["127.0.0.0/24"]);
  const first = [];
  for (let i = 0; i < 64; i++) {
    const socket = dial();
    expect(await reply(socket)).toBe("hello");
    first.push(socket);
  }
  expect(await reply(dial())).toBe("closed");
  expect(await reply(dial("127.0.0.2"))).toBe("hello");
  first[0]?.destroy();
  await expect.poll(() => reply(dial())).toBe("hello");
});

test("a change to others leaves a link alone; a source that is named no more is cut", async () => {
  await configure(["127.0.0.1/32"]);
  const socket = dial();
  expect(await reply(socket)).toBe("hello");
  await configure(["127.0.0.1/32", "127.0.0.2/32"]);
  expect(await reply(socket, "still")).toBe("still");
  await configure(["127.0.0.2/32"]);
  await once(socket, "close");
  expect(await reply(dial("127.0.0.2"))).toBe("hello");
  await proxy.configure([]);
  expect(await reply(dial("127.0.0.2"))).toBe("closed");
});

test("a control plane that can't be reached closes the connection and ends nothing", async () => {
  await configure(["127.0.0.1/32"]);
  plane.close();
  await once(plane, "close");
  expect(await reply(dial())).toBe("closed");
  await expect.poll(() => proxy.connections).toBe(0);
});
