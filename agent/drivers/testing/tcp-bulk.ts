import { connect, createServer, type Socket } from "node:net";

/**
 * `tcp-bulk serve PORT` answers a line "get N" with N bytes, and takes "put N" and so many bytes, then says how many
 * came; `tcp-bulk get|put ADDRESS PORT N` does either and prints "received N". For lab tests.
 */
const [mode = "", ...rest] = process.argv.slice(2);
if (mode === "serve") {
  const server = createServer((socket) => {
    let got = -1;
    let wanted = 0;
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      if (got < 0) {
        const end = chunk.indexOf("\n");
        const [verb, count] = chunk.toString("latin1", 0, end).split(" ");
        if (verb === "get") return void socket.end(Buffer.alloc(Number(count)));
        got = chunk.length - end - 1;
        wanted = Number(count);
      } else got += chunk.length;
      if (got >= wanted) socket.end(`${got}`);
    });
  });
  server.listen(Number(rest[0]), () => process.stdout.write("ready\n"));
} else {
  const [address = "", port, count] = rest;
  const socket: Socket = connect({ host: address, port: Number(port) });
  let bytes = 0;
  let text = "";
  socket.on("connect", () => {
    socket.write(`${mode} ${count}\n`);
    if (mode === "put") socket.write(Buffer.alloc(Number(count)));
  });
  socket.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    text = (text + chunk.toString("latin1")).slice(-20);
  });
  socket.on("error", (error) => process.stdout.write(`${(error as NodeJS.ErrnoException).code}\n`));
  socket.on("end", () => process.stdout.write(`received ${mode === "get" ? bytes : text}\n`));
}
