import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { parseManifest, parseReleaseKeys, releaseSignedBytes } from "../shared/protocol/release.ts";

const HELP = `The release key: hosts install only what it signed. Keep its private half away from the control plane.

  npm run release -- keygen [--key FILE]        make a key pair; prints the public half
  npm run release -- sign DIR [--key FILE]      sign a build (dist/agent/<version>), where it lies

FILE is ${"$XDG_CONFIG_HOME"}/trunkline/release.key by default. npm run build:agent signs too, and makes the key when there is
none; build with --unsigned and sign elsewhere to keep the key on a machine of its own.
`;
/** Beside the versions: the public halves, one a line, which the control plane gives to hosts that are installed. */
export const RELEASE_KEYS = "release.pub";

/** Where the private half is unless told otherwise. Not in the repository: that folder goes to the control plane. */
export function defaultReleaseKey(): string {
  return join(process.env.XDG_CONFIG_HOME || join(homedir(), ".config"), "trunkline/release.key");
}

/** Makes a key pair, its private half in a PEM file that only its owner reads. Answers the public half. Throws when there is one. */
export function makeReleaseKey(file: string): string {
  const { privateKey } = generateKeyPairSync("ed25519");
  mkdirSync(dirname(resolve(file)), { recursive: true, mode: 0o700 });
  writeFileSync(file, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600, flag: "wx" });
  return publicHalf(privateKey);
}

/**
 * Signs a build: writes manifest.sig beside its manifest.json, and adds the key's public half to release.pub beside the
 * versions. Throws when there is no such key or no such build.
 */
export function signRelease(dir: string, keyFile: string): { publicKey: string; added: boolean } {
  const key = createPrivateKey(readFileSync(keyFile, "utf8"));
  if (key.asymmetricKeyType !== "ed25519") throw new Error(`${keyFile} is no Ed25519 key`);
  const text = readFileSync(join(dir, "manifest.json"), "utf8");
  parseManifest(text);
  replace(join(dir, "manifest.sig"), `${sign(null, releaseSignedBytes(text), key).toString("base64")}\n`);
  const publicKey = publicHalf(key);
  const list = join(dir, "..", RELEASE_KEYS);
  const before = existsSync(list) ? readFileSync(list, "utf8") : "";
  const added = !parseReleaseKeys(before).includes(publicKey);
  if (added) replace(list, `${before}${publicKey}\n`);
  return { publicKey, added: added && before !== "" };
}

function replace(path: string, content: string): void {
  writeFileSync(`${path}.new`, content);
  renameSync(`${path}.new`, path);
}

function publicHalf(key: KeyObject): string {
  const { x = "" } = createPublicKey(key).export({ format: "jwk" });
  return Buffer.from(x, "base64url").toString("base64");
}

function main(argv: string[]): number {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { help: { type: "boolean", short: "h", default: false }, key: { type: "string" } },
  });
  const [command, dir] = positionals;
  const key = values.key ?? defaultReleaseKey();
  if (values.help || command === undefined) process.stdout.write(HELP);
  else if (command === "keygen") process.stdout.write(`${makeReleaseKey(key)}\n${key}\n`);
  else if (command === "sign" && dir !== undefined)
    process.stdout.write(`signed by ${signRelease(dir, key).publicKey}\n`);
  else {
    process.stderr.write(HELP);
    return 2;
  }
  return 0;
}

if (import.meta.main) process.exitCode = main(process.argv.slice(2));
