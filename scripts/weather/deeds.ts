import fc from "fast-check";
import { deleteAccountWhitelist, putAccountWhitelist } from "../../control-plane/services/accounts/whitelist.ts";
import { putServiceType } from "../../control-plane/services/catalogue/put.ts";
import { closeConnection } from "../../control-plane/services/connections/close.ts";
import { openConnection } from "../../control-plane/services/connections/open.ts";
import { drainHost, resumeHost, retireHost } from "../../control-plane/services/hosts/life.ts";
import { replaceHost } from "../../control-plane/services/hosts/replace.ts";
import { updateHost } from "../../control-plane/services/hosts/update.ts";
import { toBase64 } from "../../shared/canonical.ts";
import { pick } from "../../shared/testing/dice.ts";
import type { CrashPoint } from "./model-host.ts";
import { WEATHERS, type Weather } from "./wire.ts";
import type { World } from "./world.ts";

const DAY_MS = 86_400_000;

/** Everything that people, networks, machines and bad luck do in a history. */
export type Deed =
  | { do: "open" | "close"; line: number; waitMs: number }
  | { do: "whitelist" | "own whitelist"; n: number }
  | { do: "update"; host: number; what: keyof typeof PATCHES; n: number }
  | { do: "life"; host: number; other: number; what: "drain" | "resume" | "retire" | "replace" }
  | { do: "weather"; host: number; weather: Weather }
  | { do: "storm"; weather: Weather }
  | { do: "kill agent" | "start agent" | "reboot host" | "clone host" | "end clones"; host: number }
  | { do: "crash while writing"; host: number; at: CrashPoint }
  | { do: "damage state"; host: number; share: number }
  | { do: "skew clock"; host: number; days: number }
  | { do: "kill control plane" | "start control plane" | "drain control plane" | "back up" | "restore" }
  | { do: "edit kernel"; host: number; n: number; how: "remove" | "change" | "add" }
  | { do: "break kernel"; host: number; n: number; all: boolean }
  | { do: "mend kernel"; host: number }
  | { do: "wait"; ms: number }
  | { do: "sleep"; days: number };

const PATCHES = {
  publicAddress: (n: number) => ({ publicAddress: `192.0.2.${n % 250}` }),
  noPublicAddress: () => ({ publicAddress: null }),
  privateAddress: (n: number) => ({ privateAddress: `10.0.0.${n % 250}`, privateNetwork: "udpn" }),
  relayDriver: (n: number) => ({ relayDriver: n % 2 ? ("nft" as const) : ("socat" as const) }),
  wireguardPort: (n: number) => ({ wireguardPort: 50_000 + (n % 1000) }),
  outInterface: (n: number) => ({ outInterface: `eth${n % 9}` }),
};

const n = fc.nat(1000);
const of = <T extends string>(...values: T[]) => fc.constantFrom(...values);
const weather = fc.constantFrom(...WEATHERS);

export const deed: fc.Arbitrary<Deed> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: of("open"), line: n, waitMs: fc.constantFrom(0, 0, 5000) }) as fc.Arbitrary<Deed>,
  },
  { weight: 4, arbitrary: fc.record({ do: of("close"), line: n, waitMs: fc.constantFrom(0, 5000) }) },
  { weight: 2, arbitrary: fc.record({ do: of("whitelist"), n }) },
  { weight: 1, arbitrary: fc.record({ do: of("own whitelist"), n }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: of("update"),
      host: n,
      what: of(...(Object.keys(PATCHES) as (keyof typeof PATCHES)[])),
      n,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: of("life"), host: n, other: n, what: of("drain", "resume", "retire", "replace") }),
  },
  { weight: 6, arbitrary: fc.record({ do: of("weather"), host: n, weather }) },
  { weight: 2, arbitrary: fc.record({ do: of("storm"), weather }) },
  { weight: 5, arbitrary: fc.record({ do: of("kill agent"), host: n }) },
  { weight: 3, arbitrary: fc.record({ do: of("start agent"), host: n }) },
  { weight: 2, arbitrary: fc.record({ do: of("reboot host"), host: n }) },
  { weight: 1, arbitrary: fc.record({ do: of("clone host"), host: n }) },
  { weight: 1, arbitrary: fc.record({ do: of("end clones"), host: n }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: of("crash while writing"),
      host: n,
      at: fc.record({ file: of("state", "epoch", "applied"), moment: of("before rename", "after rename") }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: of("damage state"), host: n, share: fc.constantFrom(0, 0.3, 0.9) }),
  },
  { weight: 1, arbitrary: fc.record({ do: of("skew clock"), host: n, days: fc.constantFrom(-1, 0, 1) }) },
  { weight: 3, arbitrary: fc.record({ do: of("kill control plane") }) },
  { weight: 3, arbitrary: fc.record({ do: of("start control plane") }) },
  { weight: 1, arbitrary: fc.record({ do: of("drain control plane") }) },
  { weight: 1, arbitrary: fc.record({ do: of("back up") }) },
  { weight: 1, arbitrary: fc.record({ do: of("restore") }) },
  {
    weight: 5,
    arbitrary: fc.record({ do: of("edit kernel"), host: n, n, how: of("remove", "change", "add") }),
  },
  { weight: 2, arbitrary: fc.record({ do: of("break kernel"), host: n, n, all: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: of("mend kernel"), host: n }) },
  { weight: 12, arbitrary: fc.record({ do: of("wait"), ms: fc.constantFrom(1, 20, 100, 500, 2000, 10_000, 45_000) }) },
  { weight: 1, arbitrary: fc.record({ do: of("sleep"), days: fc.constantFrom(0.05, 1, 31) }) },
);

/** Does one deed. Calls are begun and not waited for: what comes next comes in between. */
export async function perform(world: World, deed: Deed): Promise<void> {
  const { time, plane, hosts } = world;
  const host = "host" in deed ? pick(hosts, deed.host) : undefined;
  switch (deed.do) {
    case "open": {
      const lineId = pick(world.lineIds(), deed.line);
      if (lineId === undefined) return;
      const clientPublicKey = toBase64(new Uint8Array(32).map(() => Math.floor(world.random() * 256)));
      return world.call("open", async (customer) => {
        const opened = await openConnection(customer, { lineId, clientPublicKey }, deed.waitMs);
        if (opened.ready.exit) world.done["open, ready"] = (world.done["open, ready"] ?? 0) + 1;
      });
    }
    case "close": {
      const lineId = pick(world.lineIds(), deed.line);
      const id = lineId === undefined ? undefined : await world.activeConnection(lineId);
      if (id === undefined) return;
      return world.call("close", async (customer) => void (await closeConnection(customer, id, deed.waitMs)));
    }
    case "whitelist":
      return world.call("whitelist", async (_, operator) => {
        await putServiceType(operator, "TK-1", { name: "TK", cidrs: [`203.0.${deed.n % 5}.0/24`], domains: [] });
      });
    case "own whitelist":
      return world.call("own whitelist", async (customer, operator) => {
        const userId = customer.actor.kind === "user" ? customer.actor.userId : undefined;
        if (userId === undefined) return;
        if (deed.n % 3 === 0) await deleteAccountWhitelist(operator, userId);
        else await putAccountWhitelist(operator, userId, { cidrs: [`198.51.${deed.n % 5}.0/24`], domains: [] });
      });
    case "update":
      if (host === undefined) return;
      return world.call("update", async (_, operator) => {
        await updateHost(operator, host.setup.id, PATCHES[deed.what](deed.n));
      });
    case "life": {
      const other = pick(
        hosts.filter((one) => one.setup.role === host?.setup.role),
        deed.other,
      );
      if (host === undefined || other === undefined) return;
      const { id } = host.setup;
      return world.call(deed.what, async (_, operator) => {
        if (deed.what === "drain") await drainHost(operator, id);
        else if (deed.what === "resume") await resumeHost(operator, id);
        else if (deed.what === "retire") await retireHost(operator, id);
        else await replaceHost(operator, id, { byHostId: other.setup.id });
      });
    }
    case "weather":
      if (host !== undefined) host.setup.wire.weather = deed.weather;
      return;
    case "storm":
      for (const one of [...hosts, ...world.clones]) one.setup.wire.weather = deed.weather;
      return;
    case "kill agent":
      return host?.kill();
    case "start agent":
      return host?.start();
    case "reboot host":
      return host?.reboot();
    case "clone host":
      if (host !== undefined) world.clone(host);
      return;
    case "end clones":
      for (const clone of world.clones) clone.kill();
      return;
    case "crash while writing":
      if (host?.agent !== undefined) host.agent.store.crash = deed.at;
      return;
    case "damage state":
      host?.kill();
      return host?.damageState(deed.share);
    case "skew clock":
      if (host !== undefined) host.skewMs = deed.days * DAY_MS;
      return;
    case "kill control plane":
      return plane.kill();
    case "start control plane":
      return plane.start();
    case "drain control plane":
      void plane.drain();
      return;
    case "back up":
      return world.backUp();
    case "restore":
      return world.restore();
    case "edit kernel": {
      if (host === undefined) return;
      const key = pick([...host.kernel.keys()], deed.n);
      if (deed.how === "add") host.kernel.set(`relay ${deed.n}-${deed.n}`, "by hand");
      else if (key !== undefined && deed.how === "remove") host.kernel.delete(key);
      else if (key !== undefined) host.kernel.set(key, "by hand");
      return;
    }
    case "break kernel":
      if (host !== undefined) host.broken.add(deed.all ? "*" : (pick([...host.kernel.keys()], deed.n) ?? "*"));
      return;
    case "mend kernel":
      return host?.broken.clear();
    case "wait":
      return time.advance(deed.ms);
    case "sleep":
      time.jump(deed.days * DAY_MS);
      return time.advance(1000);
  }
}
