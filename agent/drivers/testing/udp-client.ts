import { createSocket } from "node:dgram";

/**
 * `udp-client ADDRESS PORT NAME`: one flow from one source port that never pauses (a datagram each 20 ms, as a
 * keepalive would), printing a line for each answer: "TAG NAME SEQ". For lab tests.
 */
const [address, port, name] = process.argv.slice(2);
const socket = createSocket("udp4");
let seq = 0;
socket.on("message", (text) => process.stdout.write(`${text}\n`));
// A refused port is reported on an unconnected socket only if it asks for it; should it be, the flow goes on.
socket.on("error", () => {});
setInterval(() => socket.send(`${name} ${seq++}`, Number(port), address), 20);
