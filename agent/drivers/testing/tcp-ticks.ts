import { connect, createServer } from "node:net";

/**
 * `tcp-ticks serve PORT` sends a line each 20 ms to whoever connects; `tcp-ticks listen ADDRESS PORT` prints what it is
 * sent, and `refused CODE` when it can't connect. For lab tests.
 */
const [mode, ...rest] = process.argv.slice(2);
if (mode === "serve") {
  const server = createServer((socket) => {
    const timer = setInterval(() => socket.write("tick\n"), 20);
    socket.on("error", () => {});
    socket.on("close", () => clearInterval(timer));
  });
  server.listen(Number(rest[0]), () => process.stdout.write("ready\n"));
} else {
  const socket = connect({ host: rest[0] ?? "", port: Number(rest[1]) });
  socket.on("error", (error) => process.stdout.write(`refused ${(error as NodeJS.ErrnoException).code}\n`));
  socket.pipe(process.stdout);
}
