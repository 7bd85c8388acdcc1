import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { TestControlPlane } from "../testing/control-plane.ts";

const MAIN = join(import.meta.dirname, "../main.ts");
let plane: TestControlPlane;
let url: string;
let dir: string;

beforeAll(async () => {
  plane = new TestControlPlane();
  url = await plane.listen();
});
afterAll(() => plane.close());
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "trunkline-cli-"));
  return () => rmSync(dir, { recursive: true });
});

function agent(args: string[], { token, input = "" }: { token?: string; input?: string } = {}) {
  const env = { PATH: process.env.PATH ?? "", ...(token === undefined ? {} : { TRUNKLINE_TOKEN: token }) };
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const child = execFile(process.execPath, [MAIN, ...args], { env }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
    );
    child.stdin?.end(input);
  });
}
const where = () => ["--config", join(dir, "agent.json"), "--state-dir", join(dir, "state")];
const enrolArgs = (role = "exit") => ["enrol", "--url", url, "--role", role, ...where()];
const stateFile = (name: string) => join(dir, "state", name);

test("a host enrols by its environment's token, keeps its keys to itself and does not keep the token", async () => {
  const { code, stdout } = await agent(enrolArgs(), { token: plane.token });
  expect([code, stdout]).toEqual([0, expect.stringContaining(plane.hostId)]);
  expect(statSync(join(dir, "state")).mode & 0o777).toBe(0o700);
  for (const name of ["keys.json", "wireguard.key", "enrolment.json"])
    expect(statSync(stateFile(name)).mode & 0o777).toBe(0o600);
  expect(existsSync(stateFile("keys.pending.json"))).toBe(false);
  const privateKey = readFileSync(stateFile("wireguard.key"), "utf8").trim();
  expect(JSON.stringify(plane.enrolled)).not.toContain(privateKey);
  const kept = ["keys.json", "enrolment.json"].map((name) => readFileSync(stateFile(name), "utf8")).join();
  expect(kept + readFileSync(join(dir, "agent.json"), "utf8")).not.toContain(plane.token);
  expect(JSON.parse(readFileSync(join(dir, "agent.json"), "utf8"))).toMatchObject({ endpoints: [url], role: "exit" });
});

test("the token may come by stdin; only exits have a tunnel key", async () => {
  expect((await agent(enrolArgs("forward"), { input: `${plane.token}\n` })).code).toBe(0);
  expect(plane.enrolled).toMatchObject({ role: "forward", wireguardPublicKey: null });
  expect(existsSync(stateFile("wireguard.key"))).toBe(false);
});

test("enrolling twice changes nothing and says so; --force makes a new host, and a refused --force changes nothing", async () => {
  await agent(enrolArgs(), { token: plane.token });
  const keys = readFileSync(stateFile("keys.json"), "utf8");
  const again = await agent(enrolArgs(), { token: plane.token });
  expect(again.code).toBe(2);
  expect(again.stderr).toContain(`already enrolled as ${plane.hostId}`);
  expect((await agent([...enrolArgs(), "--force"], { token: "tl_enr_wrong" })).code).toBe(2);
  expect(readFileSync(stateFile("keys.json"), "utf8")).toBe(keys);
  expect((await agent([...enrolArgs(), "--force"], { token: plane.token })).code).toBe(0);
  expect(readFileSync(stateFile("keys.json"), "utf8")).not.toBe(keys);
});

test("a try whose answer was lost is repeated with the same keys", async () => {
  await agent(["enrol", "--url", "http://127.0.0.1:1", "--role", "exit", ...where()], { token: plane.token });
  const pending = JSON.parse(readFileSync(stateFile("keys.pending.json"), "utf8"));
  await agent(enrolArgs(), { token: plane.token });
  expect(plane.enrolled?.identityPublicKey).toBe(pending.identity.publicKey);
});

test.each([
  ["a wrong token", () => agent(enrolArgs(), { token: "tl_enr_wrong" }), /not valid.*Ask for a new enrolment token/],
  ["no token", () => agent(enrolArgs()), /token is empty/],
  [
    "nobody there",
    () => agent(["enrol", "--url", "http://127.0.0.1:1", "--role", "exit", ...where()], { token: plane.token }),
    /can't be reached.*Check the address/,
  ],
  ["a role there is not", () => agent([...enrolArgs(), "--role", "king"], { token: plane.token }), /--role must be/],
  ["no address", () => agent(["enrol", "--role", "exit", ...where()], { token: plane.token }), /--url must be/],
  ["an option there is not", () => agent(["enrol", "--token", "x"]), /Unknown option '--token'/],
  ["run before enrol", () => agent(["run", ...where()]), /Enrol this host first/],
  ["status of nothing", () => agent(["status", ...where()]), /Is the agent running/],
  ["a command there is not", () => agent(["dance"]), /"dance" is no command/],
])("%s is told in one line, with what to do, and a code", async (_name, run, text) => {
  const { code, stderr } = await run();
  expect(code).toBe(2);
  expect(stderr).toMatch(text);
  expect(stderr.trim().split("\n")).toHaveLength(1);
});

test("--help works everywhere and does nothing", async () => {
  for (const args of [["--help"], ["enrol", "--help"], ["run", "--help"], ["status", "--help"], []]) {
    const { code, stdout } = await agent(args);
    expect([code, stdout.length > 80]).toEqual([0, true]);
  }
});
