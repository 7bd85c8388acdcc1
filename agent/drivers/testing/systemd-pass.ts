import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createExec } from "../../exec.ts";
import { makeKeys } from "../../keys.ts";
import { RelayTraffic } from "../../relay-traffic.ts";
import { TrafficBook } from "../../traffic.ts";
import { RelaySocatDriver } from "../relay-socat.ts";
import { ResolverDriver } from "../resolver.ts";
import { SystemdServices } from "../services-systemd.ts";
import { WhitelistDriver } from "../whitelist.ts";
import { WireguardDriver } from "../wireguard.ts";
import { memoryStore, pass } from "./pass.ts";

/**
 * One pass of the real drivers on a machine with systemd, as a newly started agent makes it: `systemd-pass ITEMS`.
 * Prints what was done, what failed, and the relays' counts. Bundled into a container by the lab test.
 */
const [, , text = "[]"] = process.argv;
const dir = "/var/lib/trunkline";
mkdirSync(dir, { recursive: true, mode: 0o700 });
const keyFile = `${dir}/test.key`;
const keys = makeKeys("exit").wireguard;
const store = memoryStore();
// What the state directory would remember, for this test's few words.
const memory = `${dir}/test.json`;
const kept = existsSync(memory) ? JSON.parse(readFileSync(memory, "utf8")) : { prints: {}, names: [], key: keys };
for (const [table, print] of Object.entries(kept.prints)) store.saveFingerprint(table, String(print));
store.saveInterfaces(kept.names);
writeFileSync(keyFile, `${kept.key.privateKey}\n`, { mode: 0o600 });
const exec = createExec();
const services = new SystemdServices(exec, `${dir}/services`);
const traffic = new RelayTraffic(exec, services, new TrafficBook("boot", null, () => {}));
const items = JSON.parse(text);
const outcome = await pass(
  [
    new WhitelistDriver(exec, store),
    new WireguardDriver({ exec, store, keyFile, publicKey: kept.key.publicKey }),
    new RelaySocatDriver(exec, services, traffic),
    new ResolverDriver(exec, services, `${dir}/resolver`),
  ],
  items,
);
const prints = Object.fromEntries(["trunkline_exit"].map((table) => [table, store.fingerprint(table) ?? ""]));
writeFileSync(memory, JSON.stringify({ prints, names: store.interfaces(), key: kept.key }));
const said = {
  done: outcome.done.map((step) => step.what),
  failed: outcome.failed.map((f) => `${f.what}: ${f.error}`),
  relays: await traffic.look(items),
};
process.stdout.write(`${JSON.stringify(said)}\n`);
process.exit(0);
