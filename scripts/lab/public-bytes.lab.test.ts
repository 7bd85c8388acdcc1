import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { createLab, type Lab, WEB_LISTED } from "./lab.ts";
import { poll } from "./poll.ts";
import { measurePublicBytes, startPublicBytes } from "./public-bytes.ts";
import { httpGet, pingFlood, startStream } from "./traffic.ts";

const MB = 1024 * 1024;
let lab: Lab;
let cp: ControlPlane;
let body: string;
beforeAll(async () => {
  lab = await createLab({ clients: 0, boardings: 0, exits: 2, purpose: "public bytes" });
  cp = await startControlPlane(lab, { argv: ["scripts/lab/web.ts", "--port", "8787"], ready: "/" });
  body = join(lab.host("exit1").dir, "body");
  writeFileSync(body, Buffer.alloc(MB));
});
afterAll(() => lab?.close());

const upload = (url: string) => lab.host("exit1").ns.exec(["curl", "-sS", "--data-binary", `@${body}`, "--", url]);

test("an upload to the control plane by the public interface shows as other; the existing link does not", async () => {
  const exit = lab.host("exit1");
  const link = await startStream(exit, `${cp.url}/stream`);
  const meter = await startPublicBytes(lab, exit);
  const sofar = link.bytes();
  await poll(() => link.bytes() > sofar + 1000, { what: "the link to be used" });
  const quiet = await meter.read();
  expect(quiet.control).toBeGreaterThan(0);
  expect(quiet.other).toBe(0);

  await upload(cp.url);
  const { other, control } = await meter.stop();
  expect(other).toBeGreaterThan(MB);
  expect(other).toBeLessThan(1.2 * MB);
  expect(control).toBeLessThan(MB / 10);
  await link.stop();
});

test("what the customer does is the customer's", async () => {
  const exit = lab.host("exit1");
  const bytes = await measurePublicBytes(lab, exit, async () => {
    await upload(`http://${WEB_LISTED}/`);
    await pingFlood(exit, cp.url.replace(/^http:\/\/|:\d+$/g, ""), { count: 5 });
  });
  expect(bytes.customer).toBeGreaterThan(MB + 5 * 84);
  expect(bytes).toEqual({ total: bytes.customer, customer: bytes.customer, control: 0, other: 0 });
});

test("the private network and other exits are not counted", async () => {
  const exit = lab.host("exit1");
  const bytes = await measurePublicBytes(lab, exit, async () => {
    await pingFlood(exit, lab.host("forward1").privateAddress ?? "", { count: 5 });
    await httpGet(lab.host("exit2"), cp.url);
  });
  expect(bytes.total).toBe(0);
});

test("with the agent's pid, another program's connection is not the link", async () => {
  const exit = lab.host("exit1");
  const stream = await startStream(exit, `${cp.url}/stream`);
  const meter = await startPublicBytes(lab, exit, { agentPid: 1 });
  const sofar = stream.bytes();
  await poll(() => stream.bytes() > sofar + 1000, { what: "the stream to go on" });
  expect(await meter.stop()).toMatchObject({ control: 0, other: expect.any(Number) });
  await stream.stop();
});
