import { createSocket } from "node:dgram";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { parseArgs } from "node:util";

/**
 * The lab's sites, run in the namespace of the internet:
 *   GET /            the client's address as text: whose exit the request left by
 *   GET /bytes/N     N bytes
 *   GET /stream      100 bytes every 10 ms for ten minutes: a flow that shows every stall
 *   PUT, POST        swallows the body and answers its size
 * and a UDP echo on the same addresses.
 */
function answer(request: IncomingMessage, response: ServerResponse): void {
  if (request.method === "PUT" || request.method === "POST") {
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
    });
    request.on("end", () => response.end(`${size}\n`));
    return;
  }
  const bytes = /^\/bytes\/([0-9]{1,10})$/.exec(request.url ?? "");
  if (bytes) sendBytes(response, Number(bytes[1]));
  else if (request.url === "/stream") sendStream(response);
  else response.end(`${request.socket.remoteAddress}\n`);
}

function sendBytes(response: ServerResponse, count: number): void {
  const block = Buffer.alloc(64 * 1024, "x");
  let left = count;
  response.setHeader("content-length", count);
  const more = () => {
    while (left > 0) {
      const part = left < block.length ? block.subarray(0, left) : block;
      left -= part.length;
      if (!response.write(part)) {
        response.once("drain", more);
        return;
      }
    }
    response.end();
  };
  more();
}

function sendStream(response: ServerResponse): void {
  let ticks = 60_000;
  const timer = setInterval(() => {
    response.write(`${"x".repeat(99)}\n`);
    if (--ticks === 0) response.end();
  }, 10);
  response.on("close", () => clearInterval(timer));
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      listen: { type: "string", default: "0.0.0.0" },
      port: { type: "string", default: "80" },
      "echo-port": { type: "string", default: "7" },
    },
  });
  for (const address of values.listen.split(",")) {
    createServer(answer).listen(Number(values.port), address);
    const echo = createSocket("udp4");
    echo.on("message", (message, from) => echo.send(message, from.port, from.address));
    echo.bind(Number(values["echo-port"]), address);
  }
}
