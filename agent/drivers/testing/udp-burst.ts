import { createSocket } from "node:dgram";

/**
 * `udp-burst ADDRESS PORT CLIENTS EACH`: so many clients send their datagrams at once, each naming itself; prints how
 * many answers came within half a second of the last, and how many of them named another client. For lab tests.
 */
const [address, port, clients, each] = process.argv.slice(2);
let answers = 0;
let crossed = 0;
const end = () => {
  process.stdout.write(`answers ${answers} crossed ${crossed}\n`);
  process.exit(0);
};
let timer = setTimeout(end, 1500);
const sockets = Array.from({ length: Number(clients) }, (_, i) => {
  const socket = createSocket("udp4");
  socket.on("message", (text) => {
    answers += 1;
    if (String(text).split(" ")[1] !== `client${i}`) crossed += 1;
    clearTimeout(timer);
    timer = setTimeout(end, 500);
  });
  socket.on("error", () => {});
  socket.bind(0);
  return socket;
});
await Promise.all(sockets.map((s) => new Promise<void>((resolve) => s.once("listening", resolve))));
for (let n = 0; n < Number(each); n++)
  for (const [i, socket] of sockets.entries()) socket.send(`client${i} ${n}`, Number(port), address);
