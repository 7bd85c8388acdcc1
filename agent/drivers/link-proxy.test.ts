import { expect, test } from "vitest";
import type { StateItem } from "../../shared/protocol/desired-state.ts";
import type { LinkProxy } from "../link/proxy.ts";
import { LinkProxyDriver } from "./link-proxy.ts";

const item = (port: number): StateItem => ({
  type: "linkProxy",
  id: "proxy",
  address: "10.0.0.1",
  port,
  allow: ["10.0.0.2/32"],
});

test("a pass-through whose change failed half-way is put up again when what was before is wanted back", async () => {
  const asked: number[][] = [];
  const proxy = {
    configure: async (proxies: { port: number }[]) => {
      asked.push(proxies.map(({ port }) => port));
      if (proxies.some(({ port }) => port === 80)) throw new Error("EACCES");
    },
  } as unknown as LinkProxy;
  const driver = new LinkProxyDriver(async () => proxy);
  const pass = async (port: number) => {
    const { steps } = driver.plan(await driver.observe(), [item(port)]);
    for (const step of steps) await driver.apply(step);
    return steps.length;
  };
  expect(await pass(51822)).toBe(1);
  expect(await pass(51822)).toBe(0);
  await expect(pass(80)).rejects.toThrow("EACCES");
  expect(await pass(51822)).toBe(1);
  expect(asked).toEqual([[51822], [80], [51822]]);
});
