import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { judgeUpgrade } from "../agent/upgrade/judge.ts";
import { directoryReleases } from "../control-plane/adapters/releases/directory.ts";
import { buildAgent } from "./build-agent.ts";
import { makeReleaseKey, signRelease } from "./release.ts";

test("a build is signed by the release key, a host that pins its public half takes it, and the private half is not in the build", async () => {
  const dir = mkdtempSync(join(tmpdir(), "trunkline-release-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const [key, other, out] = [join(dir, "release.key"), join(dir, "other.key"), join(dir, "out")];
  const publicKey = makeReleaseKey(key);
  expect(statSync(key).mode & 0o777).toBe(0o600);
  expect(() => makeReleaseKey(key)).toThrow(/EEXIST/);
  const built = await buildAgent({ out, key, version: "1.1.0" });
  const releases = directoryReleases(out);
  expect([await releases.keys(), await releases.versions()]).toEqual([[publicKey], ["1.1.0"]]);
  const offer = { ...((await releases.signed("1.1.0")) ?? { manifest: "", signature: "" }), older: false };
  const host = { version: "1.0.0", stateForm: 1, keys: [publicKey] };
  expect(judgeUpgrade(offer, host).manifest).toEqual(built.manifest);
  const pem = readFileSync(key, "utf8").split("\n")[1] ?? "";
  for (const file of ["1.1.0/manifest.json", "1.1.0/manifest.sig", "release.pub"])
    expect(readFileSync(join(out, file), "utf8")).not.toContain(pem);

  // A second key is added to the first; hosts that pin only the first refuse what the second signed.
  const second = makeReleaseKey(other);
  expect(signRelease(built.dir, other)).toEqual({ publicKey: second, added: true });
  expect(await releases.keys()).toEqual([publicKey, second]);
  const resigned = { ...((await releases.signed("1.1.0")) ?? { manifest: "", signature: "" }), older: false };
  expect(() => judgeUpgrade(resigned, host)).toThrow(/not signed by a key/);
  // Unsigned, there is nothing to send.
  await buildAgent({ out, version: "1.2.0" });
  expect(await releases.signed("1.2.0")).toBeUndefined();
});
