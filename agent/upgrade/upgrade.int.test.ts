import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { newId } from "../../shared/ids.ts";
import { releaseSignedBytes } from "../../shared/protocol/release.ts";
import type { UpgradeParams } from "../../shared/protocol/tasks.ts";
import { type TaskContext, TaskError } from "../tasks/types.ts";
import { UpgradeFiles } from "./files.ts";
import { createUpgrader } from "./upgrade.ts";

const BUNDLE = randomBytes(50_000);
const sha256 = createHash("sha256").update(BUNDLE).digest("hex");
const { privateKey, publicKey } = generateKeyPairSync("ed25519");
const pinned = Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");
const attempt = (n: number) => newId("tsk", n, new Uint8Array(10));

function params(more: Partial<UpgradeParams> & { version?: string } = {}): UpgradeParams {
  const { version = "1.1.0", ...rest } = more;
  const files = [{ name: "agent.mjs", size: BUNDLE.length, sha256 }];
  const manifest = JSON.stringify({ version, stateSchema: { writes: 1, reads: 1 }, files });
  const signature = sign(null, releaseSignedBytes(manifest), privateKey).toString("base64");
  return { attempt: attempt(1), manifest, signature, trialS: 60, older: false, commit: false, ...rest };
}

/** A host with the agent installed, its control plane, and how often the agent wanted to start anew. */
async function makeHost(answer: (response: ServerResponse) => void = (response) => response.end(BUNDLE)) {
  const dir = mkdtempSync(join(tmpdir(), "trunkline-upgrade-"));
  const [opt, stateDir] = [join(dir, "opt"), join(dir, "state")];
  mkdirSync(join(opt, "versions/1.0.0"), { recursive: true });
  mkdirSync(stateDir);
  writeFileSync(join(opt, "versions/1.0.0/agent.mjs"), "");
  writeFileSync(join(opt, "gate"), "");
  symlinkSync("versions/1.0.0", join(opt, "current"));
  writeFileSync(join(dir, "release.pub"), `# ours\n${pinned}\n`);
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? "");
    answer(response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
    rmSync(dir, { recursive: true });
  });
  const restarts: string[] = [];
  const agent = (version: string) =>
    createUpgrader({
      stateDir,
      opt,
      keysFile: join(dir, "release.pub"),
      version,
      bundle: join(opt, "versions/1.0.0/agent.mjs"),
      log: { info() {}, warn() {}, error() {} },
      restart: () => restarts.push(version),
    });
  const ctx = {
    signal: new AbortController().signal,
    now: () => 1_700_000_000_900,
    way: () => ({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }),
  } as TaskContext;
  const codeOf = (run: Promise<unknown>) => run.catch((error) => (error instanceof TaskError ? error.code : error));
  return { dir, opt, asked, restarts, agent, ctx, codeOf, files: new UpgradeFiles(stateDir) };
}

test("asked twice at once it fetches once; then the bundle and the request lie there for the gate, and it ends itself", async () => {
  const { agent, ctx, asked, files, restarts } = await makeHost();
  const run = agent("1.0.0");
  const both = await Promise.all([run(params(), ctx), run(params(), ctx)]);
  expect([both, asked]).toEqual([Array(2).fill({ state: "staged" }), ["/agent/releases/1.1.0/agent.mjs"]]);
  expect(readFileSync(files.path("staged.mjs")).equals(BUNDLE)).toBe(true);
  const request = readFileSync(files.path("request"), "utf8");
  expect(request).toBe(`attempt=${attempt(1)}\nversion=1.1.0\nsha256=${sha256}\nlimit=60\nasked=1700000000\n`);
  // Asked again before it ended: it does not fetch again.
  expect(await run(params(), ctx)).toEqual({ state: "staged" });
  await expect.poll(() => restarts).toEqual(["1.0.0"]);
  expect(asked).toHaveLength(1);
});

test("fetched while there was no link, it is asked of the gate when the control plane asks again, not as of then", async () => {
  const { agent, ctx, files } = await makeHost();
  const run = agent("1.0.0");
  const link = new AbortController();
  const cut = run(params(), { ...ctx, signal: link.signal }).catch((error) => error);
  link.abort(new Error("the link is gone"));
  expect(String(await cut)).toContain("the link is gone");
  await expect.poll(() => files.request()?.attempt).toBe(attempt(1));
  expect(await run(params(), { ...ctx, now: () => 1_700_007_000_000 })).toEqual({ state: "staged" });
  expect(readFileSync(files.path("request"), "utf8")).toContain("\nasked=1700007000\n");
});

test("a request that the gate left where it was is taken back and told, rather than restarted for at each ask", async () => {
  const { agent, ctx, codeOf, files, restarts, asked } = await makeHost();
  await agent("1.0.0")(params(), ctx);
  await expect.poll(() => restarts).toHaveLength(1);
  // The gate died half-way, or never ran; this is the next process.
  const next = agent("1.0.0");
  expect(await codeOf(next(params(), ctx))).toBe("gate_failed");
  expect(readdirSync(files.dir)).toEqual([]);
  // Asked once more, it begins anew.
  expect(await next(params(), ctx)).toEqual({ state: "staged" });
  await expect.poll(() => restarts).toHaveLength(2);
  expect(asked).toHaveLength(2);
});

test("on trial it says so until the control plane says commit; then it stays, and says so as often as it is asked", async () => {
  const { agent, ctx, codeOf, files, restarts } = await makeHost();
  mkdirSync(files.dir, { recursive: true });
  const trial = `attempt=${attempt(1)}\nto=1.1.0\nfrom=1.0.0\nlimit=60\nboot=b\nuntil=9\nstarts=2\nended=\n`;
  writeFileSync(files.path("trial"), trial);
  const run = agent("1.1.0");
  expect(await run(params(), ctx)).toEqual({ state: "trial", starts: 2 });
  expect(await codeOf(run(params({ attempt: attempt(2), commit: true }), ctx))).toBe("busy");
  expect(existsSync(files.path("trial"))).toBe(true);
  expect(await run(params({ commit: true }), ctx)).toEqual({ state: "committed" });
  expect(existsSync(files.path("trial"))).toBe(false);
  expect(await run(params({ commit: true }), ctx)).toEqual({ state: "committed" });
  expect(restarts).toEqual([]);
  // The version before, though another is noted as on trial: the gate has to act first.
  writeFileSync(files.path("trial"), trial);
  expect(await agent("1.0.0")(params({ commit: true }), ctx)).toEqual({ state: "staged" });
  expect(existsSync(files.path("trial"))).toBe(true);
});

test("a version that came back is told for its own attempt, with its last words; another attempt begins anew", async () => {
  const { agent, ctx, files } = await makeHost();
  mkdirSync(files.dir, { recursive: true });
  writeFileSync(files.path("returned"), `attempt=${attempt(1)}\nto=1.1.0\nfrom=1.0.0\nstarts=3\nreason=it = crashed\n`);
  writeFileSync(files.path("lastwords"), "boom\n");
  const run = agent("1.0.0");
  expect(await run(params(), ctx)).toEqual({ state: "returned", reason: "it = crashed", lastWords: "boom" });
  expect(await run(params({ attempt: attempt(2) }), ctx)).toEqual({ state: "staged" });
});

test("refused, it leaves nothing and goes on: no key, another signature, not installed, another file, another attempt's work", async () => {
  const host = await makeHost((response) => response.end(randomBytes(BUNDLE.length)));
  const { agent, ctx, codeOf, files, dir, opt, restarts } = host;
  const run = agent("1.0.0");
  expect(await codeOf(run(params(), ctx))).toBe("wrong_file");
  expect(readdirSync(files.dir)).toEqual([]);
  const one = codeOf(run(params(), ctx));
  expect(await codeOf(run(params({ attempt: attempt(2) }), ctx))).toBe("busy");
  expect(await one).toBe("wrong_file");
  expect(await codeOf(run({ ...params(), signature: params({ version: "1.2.0" }).signature }, ctx))).toBe(
    "bad_signature",
  );
  rmSync(join(opt, "gate"));
  expect(await codeOf(run(params(), ctx))).toBe("not_installed");
  rmSync(join(dir, "release.pub"));
  expect(await codeOf(run(params(), ctx))).toBe("no_release_key");
  expect([files.request(), restarts]).toEqual([undefined, []]);
});
