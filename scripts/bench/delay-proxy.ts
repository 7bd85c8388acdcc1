import { connect, createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";

/**
 * `delay-proxy LISTEN_PORT ADDRESS PORT …` (any number of triples): passes TCP on, each way after the same delay, because the
 * kernels of our test machines have no netem. A line on standard input sets the delay from then on, in ms each way; 0 at
 * start. A new connection also waits for the round trip and a half that its handshake would take.
 */
let oneWayMs = 0;
createInterface({ input: process.stdin })
  .on("line", (line) => {
    oneWayMs = Number(line);
    process.stdout.write(`delay ${oneWayMs}\n`);
  })
  .on("close", () => process.exit(0));

const words = process.argv.slice(2);
for (let i = 0; i + 2 < words.length; i += 3) listen(Number(words[i]), words[i + 1] ?? "", Number(words[i + 2]));

function listen(port: number, address: string, targetPort: number): void {
  createServer({ noDelay: true, pauseOnConnect: true, allowHalfOpen: true }, (near) => {
    setTimeout(() => {
      const far = connect({ host: address, port: targetPort, noDelay: true, allowHalfOpen: true });
      // Its first bytes were on their way together with the end of the handshake.
      pass(near, far);
      pass(far, near);
      near.resume();
    }, 3 * oneWayMs);
  }).listen(port, () => process.stdout.write(`listening ${port}\n`));
}

/** Bytes keep their order: timers of one length fire in the order they were set, and a shorter delay never overtakes. */
function pass(from: Socket, to: Socket): void {
  let lastAt = 0;
  const later = (fn: () => void) => {
    if (oneWayMs === 0 && lastAt <= performance.now()) return fn();
    lastAt = Math.max(lastAt, performance.now() + oneWayMs);
    setTimeout(fn, lastAt - performance.now());
  };
  from.on("data", (chunk) => later(() => to.write(chunk)));
  from.on("end", () => later(() => to.end()));
  from.on("error", () => to.destroy());
  from.on("close", () => later(() => to.destroy()));
}
