import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../control-plane/testing/note.ts";
import { canonicalJson, canonicalSha256, fromBase64, signedBytes, toBase64, toHex } from "./canonical.ts";

test("keys come sorted by UTF-16 code unit, at every depth, without white space", () => {
  expect(canonicalJson({ b: [1, { z: null, a: "ü" }], a: true, B: 1.5, "\u{1f600}": 0, "\ufb01": 0 })).toBe(
    '{"B":1.5,"a":true,"b":[1,{"a":"ü","z":null}],"\u{1f600}":0,"\ufb01":0}',
  );
});

test("members without a value are left out; what JSON can't carry is refused", () => {
  expect(canonicalJson({ a: undefined, b: 1 })).toBe('{"b":1}');
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 1n, () => 0, Symbol("x"), [undefined]])
    expect(() => canonicalJson(value)).toThrow(TypeError);
});

const json = fc.jsonValue();

test("what is parsed back is the same value, and its canonical form the same text", () => {
  fc.assert(
    fc.property(json, (value) => {
      const text = canonicalJson(value);
      expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
      expect(canonicalJson(JSON.parse(text))).toBe(text);
    }),
    { seed: propertySeed("canonical round trip") },
  );
});

function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([k, v]) => [k, reversed(v)]),
  );
}

test("the order in which an object was built does not show", async () => {
  await fc.assert(
    fc.asyncProperty(json, async (value) => {
      expect(await canonicalSha256(reversed(value))).toBe(await canonicalSha256(value));
    }),
    { seed: propertySeed("key order") },
  );
});

test("one purpose's signed bytes are never another's", () => {
  expect(new TextDecoder().decode(signedBytes("a", { b: 1 }))).toBe('a\0{"b":1}');
  expect(signedBytes("a", "b")).not.toEqual(signedBytes("b", "b"));
});

test("base 64 and hex come back as they were", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      expect(fromBase64(toBase64(bytes))).toEqual(Uint8Array.from(bytes));
      expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString("base64"));
      expect(toHex(bytes)).toBe(Buffer.from(bytes).toString("hex"));
    }),
    { seed: propertySeed("base 64") },
  );
});
