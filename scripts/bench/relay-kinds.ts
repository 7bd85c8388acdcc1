import type { ChildProcess } from "node:child_process";
import { RelayNftDriver } from "../../agent/drivers/relay-nft.ts";
import { memoryStore, settle } from "../../agent/drivers/testing/pass.ts";
import { createExec } from "../../agent/exec.ts";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Lab, LabHost } from "../lab/lab.ts";
import { poll } from "../lab/poll.ts";
import { stopChild } from "../lab/process.ts";

/** Ports of the boarding host, and where the exit takes what arrives at each. */
export const LOAD_PORT = { from: 30_000, to: 5201 };
export const ECHO_PORT = { from: 30_001, to: 51_820 };
const RANGE = { from: 30_000, to: 30_199 };

/** The two relays in a row. */
export interface Path {
  lab: Lab;
  boarding: LabHost;
  forward: LabHost;
  exit: LabHost;
}

/** One way of relaying; `up` answers how to take it down again. */
export interface RelayKind {
  name: string;
  up(path: Path): Promise<() => Promise<void>>;
}

const inside = (exit: LabHost) => exit.privateAddress ?? exit.address;

/** The agent's driver, with so many mappings on the forward host. */
export function ourDriver(mappings: number): RelayKind {
  return {
    name: mappings === 1 ? "nft driver" : `nft driver, ${mappings} mappings`,
    async up({ boarding, forward, exit }) {
      const relay = (id: string, from: number, to: number, address: string, port: number | "same"): StateItem => {
        return { type: "relay", id, listen: { from, to }, to: { address, port }, driver: "nft" };
      };
      const used = [LOAD_PORT, ECHO_PORT].map(({ from, to }) => relay(`r${from}`, from, from, inside(exit), to));
      const others = Array.from({ length: mappings - 1 }, (_, i) => 40_000 + i).map((port) => {
        return relay(`r${port}`, port, port, inside(exit), 51_820);
      });
      const wants: [LabHost, StateItem[]][] = [
        [boarding, [relay("range", RANGE.from, RANGE.to, forward.address, "same")]],
        [forward, [...used, ...others]],
      ];
      const made = wants.map(([host, items]) => {
        return { items, driver: new RelayNftDriver(createExec({ prefix: host.ns.argv([]) }), memoryStore()) };
      });
      for (const { driver, items } of made) await settle([driver], items);
      return async () => {
        for (const { driver } of made) await settle([driver], []);
      };
    },
  };
}

/** What an administrator would write: two rules a host. */
export const rulesByHand: RelayKind = {
  name: "rules by hand",
  async up({ boarding, forward, exit }) {
    const table = (rules: string[]) => `table ip byhand {
  chain pre { type nat hook prerouting priority dstnat; ${rules.join("; ")};
  }
  chain post { type nat hook postrouting priority srcnat; masquerade;
  }
}
`;
    const range = `udp dport ${RANGE.from}-${RANGE.to} dnat to ${forward.address}`;
    const ports = [LOAD_PORT, ECHO_PORT].map(({ from, to }) => `udp dport ${from} dnat to ${inside(exit)}:${to}`);
    const hosts: [LabHost, string][] = [
      [boarding, table([range])],
      [forward, table(ports)],
    ];
    for (const [host, text] of hosts) {
      await host.ns.sysctl({ "net.ipv4.ip_forward": "1" });
      await host.ns.exec(["nft", "-f", "-"], { input: text });
    }
    return async () => {
      for (const [host] of hosts) await host.ns.exec(["nft", "delete", "table", "ip", "byhand"]);
    };
  },
};

/** What the old system ran: one socat a port on each host. */
export const socatByHand: RelayKind = {
  name: "socat by hand",
  async up({ lab, boarding, forward, exit }) {
    const children: ChildProcess[] = [];
    const start = async (host: LabHost, from: number, target: string) => {
      const argv = ["socat", `UDP4-LISTEN:${from},reuseaddr,fork`, `UDP4:${target}`];
      children.push(host.ns.spawn(argv, { logFile: lab.logFile(`socat-${host.name}`) }));
      const listens = async () => (await host.ns.exec(["ss", "-Hlnu", `sport = :${from}`])).stdout !== "";
      await poll(listens, { what: `socat on ${host.name}` });
    };
    for (const { from, to } of [LOAD_PORT, ECHO_PORT]) {
      await start(boarding, from, `${forward.address}:${from}`);
      await start(forward, from, `${inside(exit)}:${to}`);
    }
    return async () => {
      // Its children first: they outlive it.
      for (const host of [boarding, forward]) await endSocats(host, children);
      for (const child of children) await stopChild(child, "SIGKILL");
    };
  },
};

async function endSocats(host: LabHost, parents: readonly ChildProcess[]): Promise<void> {
  for (const { pid } of parents) {
    const { stdout } = await host.ns.exec(["ps", "-o", "pid=", "--ppid", `${pid}`], { check: false });
    for (const child of stdout.split("\n").map(Number).filter(Boolean)) process.kill(child, "SIGKILL");
  }
}
