import { expect, test } from "vitest";
import type { StateItem } from "../shared/protocol/desired-state.ts";
import type { PathProbe } from "../shared/protocol/frames.ts";
import { type ProbeDeps, Prober } from "./paths.ts";
import { FakeClock } from "./testing/fake-clock.ts";

const relay = (n: number, address: string): StateItem => ({
  type: "relay",
  id: `r${n}`,
  listen: { from: 30_000 + n, to: 30_000 + n },
  to: { address, port: 51_820 },
  driver: "nft",
});
const whitelist: StateItem = {
  type: "whitelist",
  id: "whitelist",
  interface: "tl0",
  cidrs: ["203.0.113.0/24"],
  domains: ["example.com"],
  outInterface: null,
};
function probing(items: StateItem[], more: Partial<ProbeDeps> = {}) {
  const clock = new FakeClock();
  const asked: { targets: readonly string[]; how: { count: number; atOnce: number } }[] = [];
  const told: PathProbe[][] = [];
  const state = { items };
  const prober = new Prober({
    clock,
    log: { info() {}, warn() {}, error() {} },
    everyMs: 60_000,
    tell: (probes) => told.push(probes),
    items: () => state.items,
    gateway: async () => "192.0.2.254",
    ping: async (targets, { count, atOnce }) => {
      asked.push({ targets, how: { count, atOnce } });
      return { rttsMs: new Map(targets.map((target) => [target, [3, 1, 2, 2, 2]])), complaint: "" };
    },
    ...more,
  });
  void prober.run();
  const round = async () => {
    asked.length = 0;
    await clock.advance(60_000);
    return asked.flatMap(({ targets }) => targets);
  };
  return { prober, asked, told, round, state };
}

test("next hops are the relays' targets, each once; an exit probes its gateway, and nothing a customer named", async () => {
  const forward = probing([relay(1, "10.0.0.2"), relay(2, "10.0.0.1"), relay(3, "10.0.0.2")]);
  expect(await forward.round()).toEqual(["10.0.0.1", "10.0.0.2"]);
  expect(forward.asked.map(({ how }) => how)).toEqual([{ count: 5, atOnce: 4 }]);
  const exit = probing([whitelist]);
  expect(await exit.round()).toEqual(["192.0.2.254"]);
  const idle = probing([]);
  expect(await idle.round()).toEqual([]);
  const lone = probing([whitelist], { gateway: async () => undefined });
  expect(await lone.round()).toEqual([]);
});

test("what is not in the state any more is not probed any more", async () => {
  const host = probing([relay(1, "10.0.0.1"), relay(2, "10.0.0.2")]);
  await host.round();
  host.state.items = [relay(2, "10.0.0.2")];
  expect(await host.round()).toEqual(["10.0.0.2"]);
  expect(host.told.at(-1)?.map((probe) => probe.target)).toEqual(["10.0.0.2"]);
});

test("with more targets than a round takes they take turns, and none is left out", async () => {
  const items = Array.from({ length: 80 }, (_, i) => relay(i, `10.0.${100 + i}.1`));
  const host = probing(items);
  const rounds = [await host.round(), await host.round(), await host.round()];
  expect(rounds.map((targets) => targets.length)).toEqual([32, 32, 32]);
  expect(new Set(rounds.flat()).size).toBe(80);
});

test("each round is told once it is over, none when there is nothing to tell or after a stop; a ping that can't be sent counts as no answer, one that was not tried as nothing", async () => {
  const host = probing([relay(1, "10.0.0.1"), relay(2, "10.0.0.2"), relay(3, "10.0.0.3")], {
    // Of the third its round came to no word.
    ping: async () => ({
      rttsMs: new Map([
        ["10.0.0.1", [3, 1, 2, 2, 2]],
        ["10.0.0.2", []],
      ]),
      complaint: "Network is unreachable",
    }),
  });
  expect(host.told).toEqual([]);
  await host.round();
  expect(host.told).toMatchObject([
    [
      { target: "10.0.0.1", sent: 5, received: 5, minMs: 1, p50Ms: 2, maxMs: 3 },
      { target: "10.0.0.2", sent: 5, received: 0, p50Ms: null },
    ],
  ]);
  host.state.items = [];
  await host.round();
  host.state.items = [relay(1, "10.0.0.1")];
  host.prober.stop();
  await host.round();
  expect(host.told).toHaveLength(1);
});
