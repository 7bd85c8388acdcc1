import { createSocket } from "node:dgram";

/** `udp-echo PORT TAG`: answers each datagram with "TAG TEXT SENDER-PORT". For lab tests. */
const [port, tag] = process.argv.slice(2);
const socket = createSocket("udp4");
socket.on("message", (text, from) => socket.send(`${tag} ${text}`, from.port, from.address));
socket.bind(Number(port), () => process.stdout.write("ready\n"));
