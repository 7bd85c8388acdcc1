import { type Dice, pick } from "./dice.ts";

/** What is thrown at a reader: a text, or bytes where text is meant. */
export type Thrown = { kind: (typeof KINDS)[number]; data: string | Uint8Array };

const KINDS = [
  "random text",
  "random JSON",
  "binary",
  "cut short",
  "bytes changed",
  "doubled",
  "field dropped",
  "field of another type",
  "field at an edge",
  "field too much",
  "key twice",
  "prototype's keys",
  "deep",
  "long",
  "unknown type",
  "other's field",
] as const;

const EDGES: readonly unknown[] = [
  0,
  -1,
  1.5,
  1e308,
  2 ** 53,
  2 ** 50 + 1,
  -0,
  "",
  " ",
  "\u0000",
  "\ud800",
  "💥".repeat(50),
  "'; DROP TABLE hosts; --",
  "$(reboot)",
  "../../etc/passwd",
  null,
  true,
  [],
  {},
  [[[]]],
  "9".repeat(400),
];

const below = (random: Dice, n: number) => Math.floor(random() * n);

function randomText(random: Dice, length: number): string {
  return Array.from({ length }, () => String.fromCharCode(below(random, random() < 0.9 ? 128 : 0xffff))).join("");
}

function randomJson(random: Dice, depth: number): unknown {
  const n = below(random, depth > 0 ? 7 : 5);
  if (n === 5) return Array.from({ length: below(random, 4) }, () => randomJson(random, depth - 1));
  if (n === 6)
    return Object.fromEntries(
      Array.from({ length: below(random, 4) }, () => [randomText(random, 5), randomJson(random, depth - 1)]),
    );
  return [null, random() < 0.5, random() * 1e6, randomText(random, 8), pick(EDGES, below(random, EDGES.length))][n];
}

/** The paths of every member of a value: `["signature", "value"]`. */
function pathsOf(value: unknown, at: string[] = []): string[][] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [[...at, key], ...pathsOf(inner, [...at, key])]);
}

function change(value: unknown, [key = "", ...rest]: string[], to: (old: unknown) => unknown): unknown {
  const copy: Record<string, unknown> = Array.isArray(value)
    ? ([...value] as unknown as Record<string, unknown>)
    : { ...(value as Record<string, unknown>) };
  const next = rest.length === 0 ? to(copy[key]) : change(copy[key], rest, to);
  if (next === undefined) delete copy[key];
  else copy[key] = next;
  return copy;
}

/**
 * One thing to throw, made out of a valid object: `samples` are those a reader knows. `t` is the member that names an object's type,
 * which mutations leave alone, so that they reach what is behind it.
 */
export function throwOne(random: Dice, samples: readonly Record<string, unknown>[], t?: string): Thrown {
  const kind = pick(KINDS, below(random, KINDS.length)) as Thrown["kind"];
  const sample = pick(samples, below(random, samples.length)) ?? {};
  const other = pick(samples, below(random, samples.length)) ?? {};
  const text = JSON.stringify(sample);
  const where = below(random, text.length);
  const paths = pathsOf(sample).filter(([first]) => first !== t);
  const path = pick(paths, below(random, paths.length)) ?? ["x"];
  const json = (value: unknown) => ({ kind, data: JSON.stringify(value) ?? "" });
  switch (kind) {
    case "random text":
      return { kind, data: randomText(random, below(random, 200)) };
    case "random JSON":
      return json(randomJson(random, 4));
    case "binary":
      return { kind, data: Uint8Array.from({ length: below(random, 300) }, () => below(random, 256)) };
    case "cut short":
      return { kind, data: text.slice(0, where) };
    case "bytes changed": {
      let changed = text;
      for (let i = 0; i <= below(random, 4); i++) {
        const at = below(random, changed.length);
        changed = changed.slice(0, at) + randomText(random, below(random, 3)) + changed.slice(at + 1);
      }
      return { kind, data: changed };
    }
    case "doubled":
      return { kind, data: text + text };
    case "field dropped":
      return json(change(sample, path, () => undefined));
    case "field of another type":
      return json(change(sample, path, (old) => (typeof old === "string" ? 7 : String(old))));
    case "field at an edge":
      return json(change(sample, path, () => pick(EDGES, below(random, EDGES.length))));
    case "field too much":
      return json({ ...sample, [randomText(random, 6)]: randomJson(random, 3) });
    case "key twice":
      return {
        kind,
        data: `${text.slice(0, -1)},${JSON.stringify(path[0])}:${JSON.stringify(randomJson(random, 1))}}`,
      };
    case "prototype's keys": {
      const keys = `"__proto__":{"approved":true,"t":"ack"},"constructor":{"prototype":{"ok":true}},"toString":1`;
      return { kind, data: `${text.slice(0, -1)},${keys}}` };
    }
    case "deep": {
      const depth = 10 + below(random, 5000);
      return { kind, data: `${text.slice(0, -1)},"more":${"[".repeat(depth)}${"]".repeat(depth)}}` };
    }
    case "long":
      return json(change(sample, path, () => "x".repeat(below(random, 100_000))));
    case "unknown type":
      return json({ ...sample, ...(t === undefined ? {} : { [t]: randomText(random, 8) }) });
    case "other's field":
      return json({ ...other, ...sample });
  }
}
