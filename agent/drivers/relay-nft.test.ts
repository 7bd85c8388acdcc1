import { beforeEach, expect, test } from "vitest";
import type { RelayItem } from "../../shared/protocol/desired-state.ts";
import { type Exec, ExecError } from "../exec.ts";
import type { Look } from "./driver.ts";
import { RelayNftDriver } from "./relay-nft.ts";
import { RELAY_MAP, RELAY_MARK, RELAY_TABLE } from "./relay-plan.ts";
import { memoryStore } from "./testing/pass.ts";

/** When flows are looked for. What is done about them, on real tools, is in relay-nft.lab.test.ts. */

const [A, B] = ["10.2.0.2", "10.3.0.2"];
/** What the kernel holds. */
let map: [number, string][] | null;
let flows: string[];
let listed: number;
let now: number;
let driver: RelayNftDriver;

const relay = (port: number, address: string): RelayItem => ({
  ...{ type: "relay", id: `r${port}`, listen: { from: port, to: port }, to: { address, port: 5000 }, driver: "nft" },
});
const flow = (port: number, from: string) =>
  `udp      17 29 src=10.1.0.2 dst=10.1.0.1 sport=5555 dport=${port} src=${from} dst=10.1.0.1 sport=5000 dport=5555 mark=${RELAY_MARK} use=1`;

const answer = (stdout: string, code = 0, stderr = "") => ({ code, stdout, stderr });
const exec: Exec = {
  async run(argv, { onLine } = {}) {
    if (argv[0] === "conntrack") {
      listed++;
      flows.forEach((line) => void onLine?.(line));
      return answer("");
    }
    if (argv.join(" ").startsWith("nft -s -j list table")) {
      if (map === null) return answer("", 1, "Error: No such file or directory");
      const elem = map.map(([port, address]) => [port, { concat: [address, 5000] }]);
      return answer(JSON.stringify({ nftables: [{ map: { name: RELAY_MAP, table: RELAY_TABLE, elem } }] }));
    }
    if (argv[0] === "nft") return answer("");
    throw new ExecError(argv, null, "", "not in this test");
  },
  detach: () => Promise.reject(new Error("not in this test")),
  read: async () => "1",
};

beforeEach(() => {
  [map, flows, listed, now] = [null, [], 0, 0];
  driver = new RelayNftDriver(exec, memoryStore(), undefined, () => now);
});

const stale = async (items: RelayItem[], look: Look) => (await driver.observe(items, look)).staleFlows.length;

/** Makes what the driver plans; the kernel obeys. */
async function change(items: RelayItem[], look: Look): Promise<string[]> {
  const { steps } = driver.plan(await driver.observe(items, look), items);
  map = items.map((item) => [item.listen.from, item.to.address]);
  for (const step of steps) await driver.apply(step);
  return steps.map((step) => step.kind);
}

test.each<Look>(["all", "changed"])(
  "a packet that was on its way during a change is found by a later look at everything, when the change was made in a look at %s",
  async (look) => {
    await change([relay(40_000, A)], "all");
    now += 20_000;
    expect(await stale([relay(40_000, A)], "all")).toBe(0);
    const items = [relay(40_000, B)];
    expect(await change(items, look)).toEqual(["elements"]);
    expect(await stale(items, look)).toBe(0);
    flows = [flow(40_000, A)];
    now += 20_000;
    expect(await stale(items, "all")).toBe(1);
    // Gone, it is not looked for again.
    flows = [];
    expect(await stale(items, "all")).toBe(0);
    const before = listed;
    now += 20_000;
    expect([await stale(items, "all"), listed]).toEqual([0, before]);
  },
);

test("flows that a crash left behind are found although no relay is wanted any more", async () => {
  flows = [flow(40_000, A)];
  expect(await stale([], "all")).toBe(1);
  flows = [];
  expect(await stale([], "all")).toBe(0);
  expect([await stale([], "all"), listed]).toEqual([0, 2]);
});
