import { expect, test } from "vitest";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { Exec } from "../exec.ts";
import { LimitsDriver, limitsFor } from "./limits.ts";
import { settle } from "./testing/pass.ts";

const items: StateItem[] = [{ type: "uplink", id: "u", address: "10.0.0.1", port: 1 }];
const GIB = 1024 ** 3;

/** A kernel with these settings; what it does not let us set it ignores without a word, as sysctl does. */
function kernel(values: Record<string, number>, locked: readonly string[] = []) {
  const writes: string[] = [];
  const exec: Exec = {
    async run(argv) {
      const [name = "", value] = (argv[3] ?? "").split("=");
      writes.push(name);
      if (!locked.includes(name)) values[name] = Number(value);
      return { code: 0, stdout: "", stderr: "" };
    },
    detach: async () => 0,
    async read(path) {
      const name = path.replace("/proc/sys/", "").replaceAll("/", ".");
      return name in values ? `${values[name]}\n` : undefined;
    },
  };
  const said: unknown[] = [];
  const log = { info() {}, error() {}, warn: (_: string, fields?: object) => void said.push(fields) };
  return { exec, log, writes, said, values };
}

const CONNTRACK = "net.netfilter.nf_conntrack_max";
const ACCT = "net.netfilter.nf_conntrack_acct";

test("limits grow with the host, and stay within sense", () => {
  const at = (bytes: number) => limitsFor(bytes)[CONNTRACK];
  expect([at(GIB / 2), at(8 * GIB), at(1024 * GIB)]).toEqual([
    { atLeast: 65_536 },
    { atLeast: 838_860 },
    { atLeast: 2_097_152 },
  ]);
});

test("a limit is raised and never lowered, and what differs later is drift to repair", async () => {
  const k = kernel({ [CONNTRACK]: 65_536, "net.core.rmem_max": 999_999_999, [ACCT]: 0 });
  const driver = new LimitsDriver(k.exec, k.log, limitsFor(8 * GIB));
  await settle([driver], items);
  expect(k.values).toEqual({ [CONNTRACK]: 838_860, "net.core.rmem_max": 999_999_999, [ACCT]: 1 });
  k.values[ACCT] = 0;
  expect(await settle([driver], items)).toEqual([`${ACCT} is 0, should be 1`]);
  expect(k.said).toEqual([]);
});

test("what the kernel does not let us set is said once and fails nothing", async () => {
  const k = kernel({ [CONNTRACK]: 1, [ACCT]: 1 }, [CONNTRACK]);
  const driver = new LimitsDriver(k.exec, k.log, limitsFor(8 * GIB));
  for (let i = 0; i < 3; i++) await settle([driver], items);
  expect(k.writes).toEqual([CONNTRACK]);
  expect(k.said).toHaveLength(1);
});

test("a host that has nothing to do is left as it is", async () => {
  const k = kernel({ [CONNTRACK]: 1, [ACCT]: 0 });
  await settle([new LimitsDriver(k.exec, k.log, limitsFor(GIB))], []);
  expect(k.writes).toEqual([]);
});
