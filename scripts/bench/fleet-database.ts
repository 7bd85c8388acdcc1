import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { openFileDatabase } from "../../control-plane/adapters/database/libsql-file.ts";
import * as t from "../../control-plane/db/schema/index.ts";
import type { Database } from "../../control-plane/ports/index.ts";
import { type Id, type IdPrefix, newId } from "../../shared/ids.ts";
import { fen } from "../../shared/money.ts";
import { ROOT } from "../lab/lab.ts";

/**
 * A fleet of exits, each with a sold line, written straight into the bench's own database: enrolling
 * ten thousand through the API would take minutes and measure something else. Ids and keys follow from the index, so that the
 * processes that play the hosts need no list of them.
 */

const EPOCH = Date.UTC(2026, 0, 1);

export function fleetId<P extends IdPrefix>(prefix: P, index: number): Id<P> {
  const bytes = new Uint8Array(10);
  new DataView(bytes.buffer).setUint32(6, index);
  return newId(prefix, EPOCH, bytes);
}

/** The private half of a fleet host's identity. Known to everyone who reads this: it is no host's but the bench's. */
export function fleetIdentity(index: number): KeyObject {
  const seed = Buffer.alloc(32, "trunkline bench");
  seed.writeUint32BE(index, 28);
  // An Ed25519 private key in PKCS #8 is this prefix and 32 bytes (RFC 8410).
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  return createPrivateKey({ key: der, format: "der", type: "pkcs8" });
}

/** The public half of a fleet host's identity, in base 64. */
function publicHalf(index: number): string {
  const { x = "" } = createPublicKey(fleetIdentity(index)).export({ format: "jwk" });
  return Buffer.from(x, "base64url").toString("base64");
}

/** Opens the database a control plane in `dataDir` would have, made and migrated when it is not there. */
export function openFleetDatabase(dataDir: string): Promise<Database> {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  return openFileDatabase(join(dataDir, "trunkline.db"), { migrations: join(ROOT, "migrations") });
}

const AT_ONCE = 250;

/** Boarding and forward hosts beside so many exits: a pair for each fifty lines. */
const RELAYS_OF = (exits: number) => Math.max(1, Math.ceil(exits / 50));

/**
 * Fills a new database with so many exits, of indexes from 0, each with a line, and with the boarding and forward hosts that
 * serve them; those are shown as online, and never link. Every host's desired revision is 1.
 */
export async function makeFleet(dataDir: string, count: number): Promise<void> {
  const db = await openFleetDatabase(dataDir);
  try {
    await db.write(async (tx) => {
      await tx.insert(t.regions).values([
        { id: "from", name: "From", saleable: false, sourceRegionId: null, createdAt: EPOCH },
        { id: "to", name: "To", saleable: true, sourceRegionId: "from", createdAt: EPOCH },
      ]);
      const cidrs = Array.from({ length: 8 }, (_, i) => `192.0.2.${8 * i}/29`);
      await tx.insert(t.serviceTypes).values({ id: "TK-1", name: "Sites", cidrs, domains: [], createdAt: EPOCH });
      await tx.insert(t.users).values({
        id: fleetId("usr", 0),
        name: "fleet",
        role: "customer",
        state: "active",
        certification: "passed",
        passwordHash: "none",
        createdAt: EPOCH,
      });
      await tx
        .insert(t.groups)
        .values({ id: fleetId("grp", 0), userId: fleetId("usr", 0), name: "g", createdAt: EPOCH });
      await tx.insert(t.quotes).values({
        id: fleetId("quo", 0),
        userId: fleetId("usr", 0),
        priceId: "none",
        chargeType: "month",
        periods: 1,
        quantity: count,
        months: 1,
        lines: [],
        totalFen: fen(0),
        basisHash: "none",
        createdAt: EPOCH,
        expiresAt: EPOCH,
      });
      await tx.insert(t.orders).values({
        id: fleetId("ord", 0),
        userId: fleetId("usr", 0),
        kind: "create",
        state: "completed",
        quoteId: fleetId("quo", 0),
        groupId: fleetId("grp", 0),
        serviceTypeIds: ["TK-1"],
        quantity: count,
        amountFen: fen(0),
        createdAt: EPOCH,
        payBy: EPOCH,
      });
      const relays = Array.from({ length: RELAYS_OF(count) }, (_, i) => i);
      await tx
        .insert(t.hosts)
        .values(relays.flatMap((i) => [relayRow("boarding", count + 2 * i), relayRow("forward", count + 2 * i + 1)]));
      await tx.insert(t.pairs).values(relays.map((i) => pairRow(i, count)));
      for (let from = 0; from < count; from += AT_ONCE) {
        const indexes = Array.from({ length: Math.min(AT_ONCE, count - from) }, (_, i) => from + i);
        await tx.insert(t.hosts).values(indexes.map(hostRow));
        await tx.insert(t.resources).values(indexes.map(resourceRow));
        await tx.insert(t.lines).values(indexes.map(lineRow));
        await tx
          .insert(t.lineServiceTypes)
          .values(indexes.map((i) => ({ lineId: fleetId("lin", i), serviceTypeId: "TK-1" })));
      }
    });
  } finally {
    await db.close();
  }
}

/** Gives every host one more revision, as another process would while this one is away. */
export async function touchFleet(dataDir: string): Promise<void> {
  const db = await openFleetDatabase(dataDir);
  await db.write((tx) => tx.update(t.hosts).set({ desiredRev: sql`desired_rev + 1` }));
  await db.close();
}

function hostRow(index: number): typeof t.hosts.$inferInsert {
  const key = publicHalf(index);
  const address = `10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`;
  return {
    id: fleetId("hst", index),
    role: "exit",
    regionId: "to",
    name: `exit${index}`,
    approved: true,
    state: "offline",
    publicAddress: address,
    relayDriver: "nft",
    wireguardPort: 51_820,
    uplinkPort: 51_821,
    enrolmentTokenId: fleetId("enr", 0),
    identityPublicKey: key,
    boxPublicKey: key,
    wireguardPublicKey: key,
    facts: { hostname: `exit${index}`, os: "bench", kernel: "0", arch: "x64", capabilities: [], addresses: [] },
    version: "0.1.0",
    desiredRev: 1,
    epoch: 0,
    createdAt: EPOCH,
  };
}

function relayRow(role: "boarding" | "forward", index: number): typeof t.hosts.$inferInsert {
  const regionId = role === "boarding" ? "from" : "to";
  return {
    ...hostRow(index),
    role,
    regionId,
    name: `${role}${index}`,
    state: "online",
    lastSeenAt: Date.now() + 3_600_000,
  };
}

function pairRow(i: number, exits: number): typeof t.pairs.$inferInsert {
  const forwardHostId = fleetId("hst", exits + 2 * i + 1);
  const boardingHostId = fleetId("hst", exits + 2 * i);
  const ports = { startPort: 30_000, maxLoad: 200 };
  return {
    id: fleetId("par", i),
    boardingHostId,
    boardingAddress: "192.0.2.1",
    forwardHostId,
    ...ports,
    createdAt: EPOCH,
  };
}

function resourceRow(index: number): typeof t.resources.$inferInsert {
  return {
    id: fleetId("res", index),
    orderId: fleetId("ord", 0),
    ordinal: index,
    userId: fleetId("usr", 0),
    groupId: fleetId("grp", 0),
    kind: "line",
    state: "running",
    startsAt: EPOCH,
    endsAt: Date.now() + 30 * 86_400_000,
    anchorDay: 1,
    createdAt: EPOCH,
  };
}

function lineRow(index: number): typeof t.lines.$inferInsert {
  return {
    id: fleetId("lin", index),
    userId: fleetId("usr", 0),
    resourceId: fleetId("res", index),
    sourceRegionId: "from",
    destinationRegionId: "to",
    lineType: "golden",
    state: "active",
    exitHostId: fleetId("hst", index),
    createdAt: EPOCH,
  };
}
