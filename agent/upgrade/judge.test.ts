import { generateKeyPairSync, sign } from "node:crypto";
import { expect, test } from "vitest";
import { releaseSignedBytes } from "../../shared/protocol/release.ts";
import { TaskError } from "../tasks/types.ts";
import { judgeUpgrade } from "./judge.ts";

function pair() {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const pub = Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString("base64");
  return { pub, sign: (bytes: Uint8Array) => sign(null, bytes, privateKey).toString("base64") };
}
const [ours, theirs] = [pair(), pair()];
const bundle = { name: "agent.mjs", size: 1000, sha256: "a".repeat(64) };
const manifestText = (more: Record<string, unknown> = {}) =>
  `${JSON.stringify({ version: "1.2.0", stateSchema: { writes: 3, reads: 2 }, files: [bundle], ...more }, null, 2)}\n`;
const host = { version: "1.1.0", stateForm: 2, keys: [ours.pub] };

function judge(text = manifestText(), { by = ours, on = host, older = false, bytes = releaseSignedBytes(text) } = {}) {
  try {
    return judgeUpgrade({ manifest: text, signature: by.sign(bytes), older }, on).manifest.version;
  } catch (error) {
    if (error instanceof TaskError) return error.code;
    throw error;
  }
}

test("a release signed by any pinned key is taken, the byte for byte manifest with members of tomorrow too", () => {
  expect(judge()).toBe("1.2.0");
  expect(judge(manifestText(), { by: theirs, on: { ...host, keys: [ours.pub, theirs.pub] } })).toBe("1.2.0");
  expect(judge(manifestText({ tomorrow: { a: 1 } }))).toBe("1.2.0");
});

test("without a pinned key, with another's signature, or with one for another purpose, it is refused", () => {
  expect(judge(manifestText(), { on: { ...host, keys: [] } })).toBe("no_release_key");
  expect(judge(manifestText(), { by: theirs })).toBe("bad_signature");
  expect(judge(manifestText(), { bytes: new TextEncoder().encode(manifestText()) })).toBe("bad_signature");
  const signature = ours.sign(releaseSignedBytes(manifestText()));
  for (const text of [manifestText().replace("1.2.0", "1.2.1"), `${manifestText()} `, ""])
    expect(() => judgeUpgrade({ manifest: text, signature, older: false }, host)).toThrow(/not signed by a key/);
  for (const bad of ["", "AAAA", signature.replace(/^./, (c) => (c === "A" ? "B" : "A"))])
    expect(() => judgeUpgrade({ manifest: manifestText(), signature: bad, older: false }, host)).toThrow(/not signed/);
});

test("what is signed must still be a manifest, with a bundle of a size that fits", () => {
  expect(judge("no json")).toBe("bad_manifest");
  expect(judge(manifestText({ version: "../../etc" }))).toBe("bad_manifest");
  expect(judge(manifestText({ files: [{ ...bundle, name: "../agent.mjs" }] }))).toBe("bad_manifest");
  expect(judge(manifestText({ files: [{ ...bundle, name: "other.mjs" }] }))).toBe("bad_manifest");
  expect(judge(manifestText({ files: [{ ...bundle, size: 2 ** 40 }] }))).toBe("bad_manifest");
});

test("an older version only when it is meant, and never one that can't read this host's state", () => {
  const on = (version: string, stateForm: number) => ({ on: { ...host, version, stateForm } });
  expect(judge(manifestText(), on("1.3.0", 2))).toBe("older_version");
  expect(judge(manifestText(), { ...on("1.3.0", 2), older: true })).toBe("1.2.0");
  expect(judge(manifestText(), on("1.2.0", 3))).toBe("1.2.0");
  for (const form of [1, 4]) expect(judge(manifestText(), { ...on("1.3.0", form), older: true })).toBe("state_form");
});
