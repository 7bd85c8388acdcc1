import { promises as dns } from "node:dns";
import { connect } from "node:net";

/**
 * `dns-probe ask SERVER NAME [TYPE]` prints the answer as JSON, or the error's code; `dns-probe fresh SERVER COUNT SUFFIX`
 * resolves n0.SUFFIX, n1.SUFFIX … and connects to port 80 of each answer at once, and prints how many connected before
 * a lost first packet would have been sent again (1 s). For lab tests.
 */
const [mode, server = "", name = "", more = "A"] = process.argv.slice(2);
const resolver = new dns.Resolver({ timeout: 2000, tries: 1 });
resolver.setServers([server]);
const say = (text: string) => process.stdout.write(`${text}\n`);

if (mode === "ask") {
  try {
    say(JSON.stringify(await resolver.resolve(name, more as "A")));
  } catch (error) {
    say(String((error as NodeJS.ErrnoException).code));
  }
} else {
  let connected = 0;
  for (let i = 0; i < Number(name); i++) {
    const [address = ""] = await resolver.resolve4(`n${i}.${more}`);
    const from = performance.now();
    const ok = await new Promise<boolean>((resolve) => {
      const socket = connect({ host: address, port: 80, timeout: 3000 });
      const end = (value: boolean) => {
        socket.destroy();
        resolve(value);
      };
      socket.once("connect", () => end(true));
      socket.once("error", () => end(false));
      socket.once("timeout", () => end(false));
    });
    if (ok && performance.now() - from < 900) connected += 1;
  }
  say(`connected ${connected}`);
}
process.exit(0);
