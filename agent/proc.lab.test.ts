import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Namespace, NetLab } from "../scripts/lab/netns.ts";
import { poll } from "../scripts/lab/poll.ts";
import { exec } from "../scripts/lab/process.ts";
import { CONFINED } from "./drivers/resolver-plan.ts";
import { statOf } from "./proc.ts";

let lab: NetLab;
let ns: Namespace;
beforeAll(async () => {
  lab = await NetLab.open("proc test");
  ns = await lab.namespace("host");
});
afterAll(() => lab?.close());

/** What the agent's unit leaves to it. */
function unitCapabilities(): string[] {
  const unit = readFileSync(join(import.meta.dirname, "../scripts/install/trunkline-agent.service"), "utf8");
  return (/^CapabilityBoundingSet=(.*)$/m.exec(unit)?.[1] ?? "").toLowerCase().replaceAll("cap_", "").split(" ");
}

/** Asks as the agent under its unit would. */
async function listensOnUdp(pid: number, port: number): Promise<boolean> {
  const code = `import { listensOnUdp } from ${JSON.stringify(join(import.meta.dirname, "proc.ts"))};
    console.log(listensOnUdp(${pid}, ${port}));`;
  const bounded = ["setpriv", `--bounding-set=-all,${unitCapabilities().map((c) => `+${c}`)}`, "--inh-caps=-all", "--"];
  const { stdout } = await exec([...bounded, process.execPath, "--input-type=module", "-e", code]);
  return stdout.trim() === "true";
}

test("with the unit's powers and no more, the agent sees that its resolver and its relays listen", async () => {
  const resolver = [
    "dnsmasq",
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--user=root",
    "--no-resolv",
    "--port=5353",
  ];
  const relay = ["setpriv", "--bounding-set=-all", "--", "socat", "UDP4-LISTEN:40000,fork", "UDP4:127.0.0.1:9"];
  for (const [argv, port] of [
    [[...CONFINED, ...resolver], 5353],
    [relay, 40_000],
  ] as const) {
    const { pid = 0 } = ns.spawn(argv);
    await poll(() => listensOnUdp(pid, port), { what: `${argv.join(" ")} to be seen` });
    expect(statOf(pid)).toBeDefined();
    expect(await listensOnUdp(pid, port + 1)).toBe(false);
  }
});
