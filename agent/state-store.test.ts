import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, expect, test } from "vitest";
import { makeKeys, sha256OfCanonical } from "./keys.ts";
import { StateStore } from "./state-store.ts";
import { relayItem } from "./testing/session-bench.ts";

let dir: string;
let reported: string[];
let store: StateStore;
const open = () => {
  const note = (message: string, facts: object = {}) => void reported.push(`${message} ${JSON.stringify(facts)}`);
  return new StateStore(join(dir, "state"), { info: note, warn: note, error: note });
};
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "trunkline-store-"));
  reported = [];
  store = open();
  return () => rmSync(dir, { recursive: true });
});

const items = [relayItem("a", 40_000), relayItem("b", 40_001)];
const state = { rev: 0, sha256: sha256OfCanonical(items), items };

test("an empty directory holds nothing and nothing is reported", () => {
  expect([store.keys(), store.enrolment(), store.state(), store.applied(), store.epoch()]).toEqual([
    null,
    null,
    null,
    null,
    0,
  ]);
  expect(reported).toEqual([]);
});

test("what was kept is there after a restart; revision 0 is a state", () => {
  const keys = makeKeys("exit");
  store.saveKeys(keys);
  store.saveState(state);
  store.saveApplied({ rev: 0, sha256: state.sha256 });
  store.saveEpoch(7);
  store.saveFingerprint("t", "f");
  store.saveInterfaces(["tl1", "tl0", "tl0"]);
  const again = open();
  expect(again.keys()).toEqual(keys);
  expect(again.state()).toEqual(state);
  expect(again.applied()).toEqual({ rev: 0, sha256: state.sha256 });
  expect([again.epoch(), again.fingerprint("t"), again.interfaces()]).toEqual([7, "f", ["tl0", "tl1"]]);
});

test("a state of a newer control plane is kept as it came: after an upgrade of the agent it is whole", () => {
  const later = [
    { type: "teleport", id: "t", to: 1 },
    { ...relayItem("a", 40_000), colour: "red" },
  ];
  store.saveState({ rev: 3, sha256: sha256OfCanonical(later), items: later });
  expect(open().state()).toEqual({ rev: 3, sha256: sha256OfCanonical(later), items: later });
  const broken = [{ ...relayItem("a", 40_000), driver: "ebpf" }];
  store.saveState({ rev: 4, sha256: sha256OfCanonical(broken), items: broken });
  expect(open().state()).toBeNull();
  expect(reported.join()).toContain("item a (relay): driver");
});

test("files are for their owner only, even when an earlier attempt left one behind for all", () => {
  writeFileSync(store.path("keys.json.new"), "left behind");
  chmodSync(store.path("keys.json.new"), 0o666);
  store.saveKeys(makeKeys("exit"));
  for (const name of readdirSync(store.dir))
    expect([name, statSync(store.path(name)).mode & 0o777]).toEqual([name, 0o600]);
  expect(statSync(store.dir).mode & 0o777).toBe(0o700);
});

test("a damaged file is reported and counts as missing, whatever is in it", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.uint8Array().map((b) => Buffer.from(b)),
      ),
      (content) => {
        reported = [];
        for (const name of ["state.json", "epoch.json", "keys.json", "enrolment.json", "interfaces.json"])
          writeFileSync(store.path(name), content);
        expect([store.state(), store.keys(), store.enrolment()]).toEqual([null, null, null]);
        expect(reported.length).toBeGreaterThanOrEqual(3);
        store.epoch();
        store.interfaces();
      },
    ),
    { numRuns: 50 },
  );
});

test("a state cut short anywhere, or with one digit changed, is not taken", () => {
  store.saveState(state);
  const text = readFileSync(store.path("state.json"), "utf8").trimEnd();
  for (let length = 0; length < text.length; length += 7) {
    store.saveState(state);
    truncateSync(store.path("state.json"), length);
    expect(store.state()).toBe(null);
  }
  writeFileSync(store.path("state.json"), text.replace('"from":40000', '"from":39999'));
  reported = [];
  expect(store.state()).toBe(null);
  expect(reported.join()).toContain("hash does not match");
});

test("what the disk does not take is kept in memory, told once, and written when the disk takes it again", () => {
  store.saveState(state);
  const later = { rev: 1, sha256: sha256OfCanonical([]), items: [] };
  const told: (string | null)[] = [];
  store.onTrouble = (why) => void told.push(why);
  // Nothing can be written beside these files now.
  for (const name of ["state", "epoch"]) mkdirSync(store.path(`${name}.json.new`));
  store.saveState(later);
  store.saveEpoch(9);
  store.saveApplied({ rev: 1, sha256: later.sha256 });
  store.retryUnsaved();
  expect([store.state(), store.epoch()]).toEqual([later, 9]);
  expect(told).toEqual([expect.stringContaining("state.json can't be written")]);
  // A restart before the disk works goes on from what is on it.
  expect([open().state(), open().epoch()]).toEqual([state, 0]);
  for (const name of ["state", "epoch"]) rmSync(store.path(`${name}.json.new`), { recursive: true });
  store.retryUnsaved();
  expect([open().state(), open().epoch()]).toEqual([later, 9]);
  expect(told).toEqual([expect.any(String), null]);
});

test("a directory in the place of a file is reported and does not end the agent", () => {
  rmSync(store.path("state.json"), { force: true });
  store.saveEpoch(1);
  const blocked = join(dir, "state");
  writeFileSync(join(blocked, "x"), "");
  expect(() => new StateStore(join(dir, "state", "x"), { info() {}, warn() {}, error() {} })).toThrow();
  expect(open().epoch()).toBe(1);
});
