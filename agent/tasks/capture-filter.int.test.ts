import { expect, test } from "vitest";
import { note, propertySeed } from "../../control-plane/testing/note.ts";
import { filterProblem } from "../../shared/capture-filter.ts";
import { type Dice, dice, pick } from "../../shared/testing/dice.ts";
import { checkFilter, fullFilter } from "./capture-filter.ts";
import { TaskError } from "./types.ts";

/** How many filters: `FC_RUNS` for more. Each that gets past our own reader would cost a run of tcpdump; so many are tried. */
const FILTERS = Number(process.env.FC_RUNS ?? 10_000);
const COMPILED = 150;

const WORDS = (
  "and or not host net port portrange src dst tcp udp icmp ip arp less greater ( ) [ ] & | ! < > = + - * / 10.13.13.2 " +
  "10.0.0.0/8 53 1-1024 0x1f tcp[13] ip[2:2] tcp-syn vlan 80 0 99999999999 1.2.3 :: fe80::1 ether proto"
).split(" ");
const TRICKS = [
  "-w/tmp/x",
  "--",
  "$(id)",
  "`id`",
  ";id",
  "\n",
  "\u0000",
  "evil.example",
  "-r",
  "gateway localhost",
  "'",
  '"',
  "\\",
  "ü",
  "host",
  ")) or ((",
];

/** What operators really write. */
const PLAIN = [
  "host 10.13.13.2",
  "port 53",
  "tcp",
  "udp",
  "net 10.0.0.0/8",
  "not icmp",
  "less 100",
  "tcp[13] & 2 != 0",
];

const word = (random: Dice, from: readonly string[]) => pick(from, Math.floor(random() * from.length)) ?? "";

function randomFilter(random: Dice): string {
  const parts: string[] = [];
  if (random() < 0.3) {
    const terms = Array.from({ length: 1 + Math.floor(random() * 4) }, () => word(random, PLAIN));
    return terms.join(random() < 0.5 ? " and " : " or ");
  }
  for (let n = Math.floor(random() ** 2 * 12); n >= 0; n--) parts.push(word(random, random() < 0.97 ? WORDS : TRICKS));
  if (random() < 0.05)
    parts.push(String.fromCharCode(...Array.from({ length: 20 }, () => Math.floor(random() * 0x2ff))));
  if (random() < 0.01) parts.push("1 or ".repeat(400));
  return parts.join(random() < 0.9 ? " " : "");
}

test("ten thousand random filters: what our reader lets through is plain, and tcpdump compiles it or refuses it, and runs nothing", async () => {
  const random = dice(propertySeed("capture filters"));
  const counts = { refused: 0, taken: 0, compiled: 0, "refused by tcpdump": 0 };
  for (let n = 0; n < FILTERS; n++) {
    const filter = randomFilter(random);
    if (filterProblem(filter) !== undefined) {
      counts.refused++;
      continue;
    }
    counts.taken++;
    // No option, no quote, no name that could be looked up; one argument whatever it holds.
    expect(filter).toMatch(/^[A-Za-z0-9 \t.:/()[\]&|!<>=+*%^~-]*$/);
    expect(filter).not.toMatch(/evil|localhost|id\b/);
    if (counts.compiled + counts["refused by tcpdump"] >= COMPILED) continue;
    try {
      await checkFilter(filter, n % 2 ? "RAW" : "EN10MB");
      counts.compiled++;
      const uplink = { address: "10.77.0.11", port: 7443 };
      const whole = fullFilter({ filter, uplink, exclude: [] });
      // The operator's part stays within its brackets: what hides the capture's own way out always counts.
      expect(whole.endsWith(" and not (host 10.77.0.11 and tcp port 7443)") || filter.trim() === "").toBe(true);
      await checkFilter(whole, n % 2 ? "RAW" : "EN10MB");
    } catch (error) {
      expect(error).toBeInstanceOf(TaskError);
      expect((error as TaskError).code).toBe("bad_filter");
      counts["refused by tcpdump"]++;
    }
  }
  note(`capture filters: ${FILTERS}, ${JSON.stringify(counts)}`);
  expect(counts.compiled).toBeGreaterThan(5);
});
