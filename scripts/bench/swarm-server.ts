import { eq } from "drizzle-orm";
import { jsonLog } from "../../control-plane/adapters/log/json.ts";
import * as t from "../../control-plane/db/schema/index.ts";
import { transaction } from "../../control-plane/db/transaction.ts";
import { readEnvironment } from "../../control-plane/entry/config.ts";
import { startEmbedded } from "../../control-plane/entry/embedded.ts";
import { LinkHub } from "../../control-plane/link/hub.ts";
import type { Metrics } from "../../control-plane/ports/index.ts";
import { closeConnection } from "../../control-plane/services/connections/close.ts";
import { openConnection } from "../../control-plane/services/connections/open.ts";
import { systemContext } from "../../control-plane/services/context.ts";
import { ROLE_PERMISSIONS } from "../../control-plane/services/permissions.ts";
import { toBase64 } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import { atRate, cpuNow, restingBytes, watchLag } from "./swarm-load.ts";
import type { ChangesResult, OpensResult, ServerCommand, ServerStats } from "./swarm-messages.ts";
import { serveParent } from "./swarm-process.ts";

/** The real embedded control plane, with ears: its metrics are also counted here, and it takes the bench's commands. */
const lag = watchLag();
const log = jsonLog((line) => process.stdout.write(`${line}\n`), Date.now);
const server = await startEmbedded(readEnvironment(process.env), log);
const { ports } = server;
const ctx = systemContext(ports, "bench");

const counted = { opened: 0, superseded: 0 };
let pushToAck: number[] = [];
const inner = ports.metrics;
ports.metrics = {
  count(name, labels, by) {
    if (name === "links_opened") counted.opened++;
    if (name === "links_closed" && labels?.reason === "superseded") counted.superseded++;
    inner.count(name, labels, by);
  },
  time(name, ms, labels) {
    if (name === "push_to_ack_ms") pushToAck.push(ms);
    inner.time(name, ms, labels);
  },
  render: () => inner.render(),
} satisfies Metrics;

/** Of so many changes one is followed to its ack: following costs the server a query. */
const FOLLOW_EVERY = 20;

async function changes(rate: number, seconds: number): Promise<ChangesResult> {
  // Those that link: the relays of the fleet are rows only.
  const exits = await ports.db.read.select({ id: t.hosts.id }).from(t.hosts).where(eq(t.hosts.role, "exit"));
  const hosts = exits.map((host) => host.id);
  pushToAck = [];
  const changeToAckMs: number[] = [];
  const followed: Promise<void>[] = [];
  const committed: Promise<void>[] = [];
  const cpuBefore = cpuNow();
  const from = performance.now();
  const change = async (n: number) => {
    // A stride that shares no divisor with round counts: neighbours in the database are not changed together.
    const hostId = hosts[(n * 7919) % hosts.length];
    if (hostId === undefined) return;
    const askedAt = performance.now();
    const rev = await transaction(ctx, async (tx) => (await tx.touchHosts([hostId], "benchmark")).get(hostId) ?? 0);
    if (n % FOLLOW_EVERY !== 0) return;
    followed.push(
      ports.fleet.waitApplied([{ hostId, rev }], 20_000).then(([applied]) => {
        changeToAckMs.push(applied ? performance.now() - askedAt : Number.POSITIVE_INFINITY);
      }),
    );
  };
  const made = await atRate(rate, seconds, (n) => committed.push(change(n)));
  await Promise.all(committed);
  await Promise.all(followed);
  const took = (performance.now() - from) / 1000;
  return {
    changesPerSecond: made / took,
    pushToAckMs: pushToAck,
    changeToAckMs,
    cpuSeconds: cpuNow() - cpuBefore,
    seconds: took,
  };
}

/** Opens and closes connections as their lines' owner does, each of another line, one after the other. */
async function opens(count: number): Promise<OpensResult> {
  const lines = await ports.db.read.select({ id: t.lines.id, userId: t.lines.userId }).from(t.lines).limit(count);
  const openMs: number[] = [];
  const cpuBefore = cpuNow();
  for (const { id: lineId, userId } of lines) {
    const permissions = new Set(ROLE_PERMISSIONS.customer);
    const owner = {
      kind: "user",
      userId,
      role: "customer",
      ownerId: null,
      permissions,
      credential: "ses_bench",
    } as const;
    const clientPublicKey = toBase64(ports.random.bytes(32));
    const from = performance.now();
    const { id } = await openConnection({ ports, actor: owner }, { lineId, clientPublicKey }, 0);
    openMs.push(performance.now() - from);
    await closeConnection({ ports, actor: owner }, id as Id<"con">, 0);
  }
  return { openMs, cpuSeconds: cpuNow() - cpuBefore };
}

serveParent<ServerCommand>(async (command) => {
  if (command.do === "changes") return changes(command.rate, command.seconds);
  if (command.do === "opens") return opens(command.count);
  if (command.do === "resetLag") return lag.reset();
  const [lagP99Ms, lagMaxMs] = [lag.p99(), lag.max()];
  return {
    cpuSeconds: cpuNow(),
    rssBytes: await restingBytes(),
    joined: ports.fleet instanceof LinkHub ? ports.fleet.size : Number.NaN,
    opened: counted.opened,
    superseded: counted.superseded,
    lagP99Ms,
    lagMaxMs,
  } satisfies ServerStats;
});
process.send?.({ ready: true, url: server.url });
