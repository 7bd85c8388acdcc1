import { expect, test } from "vitest";
import { createExec, type Exec, type RunOptions } from "../exec.ts";
import { eachFlow, listFlows, listFlowsOf } from "./conntrack.ts";

const line = (n: number, port = 40_000) =>
  `udp      17 27 src=203.0.113.${100 + (n % 100)} dst=198.51.100.7 sport=${1024 + n} dport=${port} packets=1 bytes=60 ` +
  `src=10.13.13.10 dst=203.0.113.100 sport=51820 dport=${1024 + n} packets=2 bytes=100 mark=64 use=1\n`;

/** A conntrack that lists these lines piece by piece, and how many listings of all flows there were at once. */
function table(text: string, status = 0) {
  let now = 0;
  let most = 0;
  const real = createExec();
  const exec: Exec = {
    ...real,
    read: async () => "1000000",
    run: async (argv, options?: RunOptions) => {
      most = Math.max(most, ++now);
      try {
        return await real.run(["sh", "-c", `cat; exit ${status}`, argv[0] ?? ""], { ...options, stdin: text });
      } finally {
        now--;
      }
    },
  };
  return { exec, most: () => most };
}

test("all flows are never listed twice at once, whoever asks; a listing that failed holds up no other", async () => {
  const { exec, most } = table(line(1) + line(2));
  const failing = table("", 1);
  const seen: number[] = [];
  const [, , all, failed, ports] = await Promise.all([
    eachFlow(exec, (flow) => seen.push(flow.sourcePort)),
    listFlows(exec),
    listFlowsOf(exec, "all"),
    listFlows(failing.exec).catch(() => "failed"),
    listFlows(exec),
  ]);
  expect(most()).toBe(1);
  expect([seen, all.length, failed, ports.length]).toEqual([[1025, 1026], 2, "failed", 2]);
  expect(all[0]).toEqual({
    ...{ source: "203.0.113.101", sourcePort: 1025, address: "198.51.100.7", port: 40_000 },
    ...{ from: "10.13.13.10", fromPort: 51_820, mark: 64, bytes: 160 },
  });
});

test("a table of a flood is read line by line: its text is more than may be kept, and every flow is told", async () => {
  const flows = 190_000;
  const text = Array.from({ length: flows }, (_, n) => line(n)).join("");
  expect(text.length).toBeGreaterThan(32 * 1024 * 1024 - 1);
  let bytes = 0;
  await eachFlow(table(text).exec, (flow) => {
    bytes += flow.bytes ?? 0;
  });
  expect(bytes).toBe(flows * 160);
});
