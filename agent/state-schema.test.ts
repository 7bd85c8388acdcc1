import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { claimStateDir, STATE_SCHEMA } from "./state-schema.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "trunkline-schema-"));
  return () => rmSync(dir, { recursive: true });
});

const noted = () => JSON.parse(readFileSync(join(dir, "schema.json"), "utf8")).stateSchema;

test("an older agent does not touch a newer one's state directory, and says which it needs", () => {
  claimStateDir(dir, { writes: 3, reads: 1 });
  const before = readdirSync(dir);
  expect(() => claimStateDir(dir, { writes: 2, reads: 1 })).toThrow(/newer agent \(form 3, this one knows 2\)/);
  expect(noted()).toBe(3);
  expect(readdirSync(dir)).toEqual(before);
});

test("a newer agent takes over what it still reads, and refuses what is too old for it", () => {
  claimStateDir(dir, { writes: 1, reads: 1 });
  claimStateDir(dir, { writes: 2, reads: 1 });
  expect(noted()).toBe(2);
  expect(() => claimStateDir(dir, { writes: 4, reads: 3 })).toThrow(/too old/);
  expect(noted()).toBe(2);
});

test("agents that would take a state with kinds they do not know for damaged leave our directory alone", () => {
  claimStateDir(dir);
  // What they were: form 1, with a reader that refused a whole state for one such item.
  expect(() => claimStateDir(dir, { writes: 1, reads: 1 })).toThrow(/newer agent/);
  expect(STATE_SCHEMA.reads).toBe(1);
});

test("a directory from before there was such a note, or with a damaged one, has the first form", () => {
  writeFileSync(join(dir, "schema.json"), "{");
  expect(() => claimStateDir(dir, { writes: 2, reads: 2 })).toThrow(/too old/);
  claimStateDir(dir, { writes: 1, reads: 1 });
  expect(noted()).toBe(1);
});
