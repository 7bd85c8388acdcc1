import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../control-plane/testing/note.ts";
import { ID_PREFIXES, type IdPrefix, idSchema, newId } from "./ids.ts";

const ten = fc.uint8Array({ minLength: 10, maxLength: 10 });
const time = fc.integer({ min: 0, max: 2 ** 48 - 1 });
const prefix = fc.constantFrom(...(Object.keys(ID_PREFIXES) as IdPrefix[]));

test("an id has its prefix and 26 digits, and fits its own schema and no other", () => {
  fc.assert(
    fc.property(prefix, prefix, time, ten, (p, other, now, random) => {
      const id = newId(p, now, random);
      expect(id).toMatch(new RegExp(`^${p}_[0-9a-hjkmnp-tv-z]{26}$`));
      expect(idSchema(p).safeParse(id).success).toBe(true);
      expect(idSchema(other).safeParse(id).success).toBe(other === p);
    }),
    { seed: propertySeed("ids") },
  );
});

test("ids of one prefix sort by the time they were made, whatever their random part", () => {
  fc.assert(
    fc.property(time, time, ten, ten, (a, b, x, y) => {
      fc.pre(a !== b);
      expect(newId("ord", a, x) < newId("ord", b, y)).toBe(a < b);
    }),
    { seed: propertySeed("id order") },
  );
});

test("ids of one instant differ as their random bytes do, and keep all 80 bits of them", () => {
  fc.assert(
    fc.property(time, ten, ten, (now, x, y) => {
      expect(newId("ord", now, x) === newId("ord", now, y)).toBe(Buffer.from(x).equals(Buffer.from(y)));
    }),
    { seed: propertySeed("id randomness") },
  );
  expect(() => newId("ord", 0, new Uint8Array(9))).toThrow(RangeError);
});

test("what only looks like an id is none", () => {
  const good = newId("hst", 1, new Uint8Array(10));
  for (const bad of [
    "",
    "hst_",
    good.slice(0, -1),
    `${good}0`,
    good.toUpperCase(),
    `${good.slice(0, -1)}u`,
    ` ${good}`,
    `${good}\n`,
  ])
    expect([bad, idSchema("hst").safeParse(bad).success]).toEqual([bad, false]);
});
