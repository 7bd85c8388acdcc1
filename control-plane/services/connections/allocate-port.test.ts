import fc from "fast-check";
import { expect, test } from "vitest";
import { propertySeed } from "../../testing/note.ts";
import { nextFreePort } from "./allocate-port.ts";

test("the next port is the first free one after the last, wrapping round; none when all are taken", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1024, max: 60_000 }),
      fc.integer({ min: 1, max: 60 }),
      fc.option(fc.nat()),
      fc.array(fc.nat(80)),
      (startPort, maxLoad, last, takenOffsets) => {
        const lastPort = last === null ? null : startPort + (last % maxLoad);
        // Taken ports may lie outside the range: another pair of the same forward host.
        const taken = new Set(takenOffsets.map((offset) => startPort - 10 + offset));
        const range = Array.from({ length: maxLoad }, (_, i) => startPort + i);
        const after = lastPort === null ? 0 : range.indexOf(lastPort) + 1;
        const expected = [...range.slice(after), ...range.slice(0, after)].find((port) => !taken.has(port));
        expect(nextFreePort({ startPort, maxLoad, lastPort }, taken)).toBe(expected);
      },
    ),
    { seed: propertySeed("ports"), numRuns: 2000 },
  );
});

test("handing out and giving back in any order, a port comes back only when every other had its turn or is taken", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 12 }),
      fc.array(fc.option(fc.nat(11)), { maxLength: 60 }),
      (maxLoad, steps) => {
        const taken = new Set<number>();
        let lastPort: number | null = null;
        for (const step of steps) {
          if (step !== null) {
            taken.delete(30_000 + step);
            continue;
          }
          const port = nextFreePort({ startPort: 30_000, maxLoad, lastPort }, taken);
          expect(port === undefined).toBe(taken.size === maxLoad);
          if (port === undefined) continue;
          expect(taken.has(port)).toBe(false);
          expect(port).toBeGreaterThanOrEqual(30_000);
          expect(port).toBeLessThan(30_000 + maxLoad);
          taken.add(port);
          lastPort = port;
        }
      },
    ),
    { seed: propertySeed("ports over time") },
  );
});
