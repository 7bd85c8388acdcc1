import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createClient } from "@libsql/client/sqlite3";
import { eq } from "drizzle-orm";
import { type Keys, makeKeys } from "../../agent/keys.ts";
import { openFileDatabase } from "../../control-plane/adapters/database/libsql-file.ts";
import * as t from "../../control-plane/db/schema/index.ts";
import type { Database, Ports } from "../../control-plane/ports/index.ts";
import { type Context, systemContext } from "../../control-plane/services/context.ts";
import { desiredStates } from "../../control-plane/services/hosts/desired-state.ts";
import { enrolHost } from "../../control-plane/services/hosts/enrol.ts";
import { createEnrolmentToken } from "../../control-plane/services/hosts/enrolment-tokens.ts";
import { createPair } from "../../control-plane/services/hosts/pairs.ts";
import { approveHost, updateHost } from "../../control-plane/services/hosts/update.ts";
import { openHarness } from "../../control-plane/testing/harness.ts";
import { seededRandom } from "../../control-plane/testing/random.ts";
import {
  buyLines,
  hostsUp,
  makeCustomer,
  type Person,
  stockCatalogue,
  systemOf,
} from "../../control-plane/testing/world.ts";
import { isAppError } from "../../shared/errors.ts";
import type { Id } from "../../shared/ids.ts";
import type { HostRole } from "../../shared/protocol/enrolment.ts";
import { type Dice, dice } from "../../shared/testing/dice.ts";
import { kernelOf } from "./model-driver.ts";
import { ModelHost } from "./model-host.ts";
import { ModelPlane } from "./model-plane.ts";
import { VirtualTime } from "./virtual-time.ts";
import { Wire } from "./wire.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../migrations");
/** Memory where the machine has it: a history syncs its files hundreds of times. */
const SCRATCH = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

const ROLES: readonly HostRole[] = ["boarding", "forward", "forward", "exit", "exit", "exit"];
const REGION = { boarding: "cn-guangzhou", forward: "hk", exit: "uae-dubai" } as const;

type Known = { id: Id<"hst">; role: HostRole; keys: Keys };

/** A world as it is when a history begins: six hosts that never linked, two lines of one customer. Made once, copied often. */
export class Origin {
  readonly dir: string;
  readonly ports: Ports;
  readonly customer: Person;
  readonly known: readonly Known[];
  readonly lines: readonly Id<"lin">[];

  private constructor(dir: string, ports: Ports, customer: Person, known: Known[], lines: Id<"lin">[]) {
    [this.dir, this.ports, this.customer, this.known, this.lines] = [dir, ports, customer, known, lines];
  }

  static async make(): Promise<Origin> {
    const dir = mkdtempSync(join(SCRATCH, "trunkline-weather-"));
    mkdirSync(join(dir, "origin"));
    const h = await openHarness({ directory: join(dir, "origin") });
    const ctx = systemOf(h);
    await stockCatalogue(h);
    const known: Known[] = [];
    for (const [n, role] of ROLES.entries()) {
      const keys = makeKeys(role);
      const { token } = await createEnrolmentToken(ctx, { role, regionId: REGION[role], maxUses: 1, expiresInS: 3600 });
      const { hostId } = await enrolHost(ctx, token, {
        role,
        version: "1.0.0",
        identityPublicKey: keys.identity.publicKey,
        boxPublicKey: keys.box.publicKey,
        wireguardPublicKey: keys.wireguard?.publicKey ?? null,
        facts: { hostname: role, os: "model", kernel: "model", arch: "x64", capabilities: [], addresses: [] },
      });
      await updateHost(ctx, hostId, { publicAddress: `198.51.100.${n + 1}` });
      await approveHost(ctx, hostId);
      known.push({ id: hostId, role, keys });
    }
    const [boarding, one, two] = known as [Known, Known, Known];
    for (const [n, forward] of [one, two].entries())
      await createPair(ctx, {
        boardingHostId: boarding.id,
        forwardHostId: forward.id,
        startPort: 30_000 + 100 * n,
        maxLoad: 8,
      });
    await hostsUp(h);
    const customer = await makeCustomer(h, "customer");
    const lines = await buyLines(h, customer, 2);
    await h.close();
    await snapshot(join(dir, "origin", "trunkline.db"), join(dir, "origin.db"));
    return new Origin(dir, h.ports, customer, known, lines);
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A whole copy of a database in use, as backups are made. */
async function snapshot(from: string, to: string): Promise<void> {
  rmSync(to, { force: true });
  const client = createClient({ url: `file:${from}` });
  await client.execute({ sql: "VACUUM INTO ?", args: [to] });
  client.close();
}

/** The control plane's word to a host that was removed; see the link session's byes. */
const SENT_AWAY_MS = 3_600_000;

/** One copy of the origin, coming to life on its own clock. */
export class World {
  readonly time = new VirtualTime();
  readonly random: Dice;
  readonly hosts: ModelHost[];
  readonly clones: ModelHost[] = [];
  readonly plane: ModelPlane;
  readonly faults: string[] = [];
  /** Until when a host may stay away that was retired before a restore made it one of ours again. */
  sentAwayUntil = 0;
  readonly done: Record<string, number> = {};
  readonly refused: Record<string, number> = {};
  readonly #origin: Origin;
  readonly #dir: string;
  readonly #wires: Wire[] = [];
  /** Sessions told welcome and not closed since, by host. */
  readonly #welcomed = new Map<Id<"hst">, Set<number>>();
  /** The session each host was welcomed with last, unless it went by itself. */
  readonly #newest = new Map<Id<"hst">, { connection: number; epoch: number }>();
  #backup: Map<Id<"hst">, number> | undefined;
  /** The greatest revision of each host the database ever had, since the last restore. */
  #revisions = new Map<Id<"hst">, number>();
  /** And the greatest epoch. */
  readonly #epochs = new Map<Id<"hst">, number>();

  private constructor(origin: Origin, seed: number, dir: string, db: Database) {
    this.#origin = origin;
    this.#dir = dir;
    this.random = dice(seed);
    const base: Ports = {
      ...origin.ports,
      random: seededRandom(seed + 1),
      passwords: { hash: async () => "", verify: async () => false },
    };
    this.plane = new ModelPlane(this.time, this.random, base, db, () => {
      for (const wire of this.#wires) wire.serverDied();
      this.#welcomed.clear();
      this.#newest.clear();
    });
    const { keyId, publicKey } = origin.ports.signer;
    this.hosts = origin.known.map(
      ({ id, role, keys }, n) =>
        new ModelHost({
          time: this.time,
          random: this.random,
          wire: this.#wire(id),
          id,
          role,
          keys,
          controlPlaneKey: { keyId, publicKey },
          dir: join(dir, `host-${n}`),
          verified: new Set(),
        }),
    );
  }

  static async open(origin: Origin, seed: number): Promise<World> {
    const dir = mkdtempSync(join(origin.dir, "world-"));
    cpSync(join(origin.dir, "origin.db"), join(dir, "trunkline.db"));
    return new World(origin, seed, dir, await openFileDatabase(join(dir, "trunkline.db"), { migrations: MIGRATIONS }));
  }

  async close(): Promise<void> {
    this.plane.kill();
    for (const host of [...this.hosts, ...this.clones]) host.kill();
    await this.plane.db.close();
    rmSync(this.#dir, { recursive: true, force: true });
  }

  /** A host's own way to the control plane; what is said on it is watched. */
  #wire(id: Id<"hst">): Wire {
    const wire = new Wire(this.time, this.random, (connection) => this.plane.accept(connection));
    wire.onSent = ({ connection, saw, epoch }) => {
      const sessions = this.#welcomed.get(id) ?? new Set();
      this.#welcomed.set(id, sessions);
      if (saw === "over" || saw === "closed") sessions.delete(connection);
      // Of one that went by itself nothing is known any more; one that was sent away must have made room for a newer one.
      const newest = this.#newest.get(id);
      if (saw === "over" && connection === newest?.connection) this.#newest.delete(id);
      if (saw === "welcome") {
        sessions.add(connection);
        if (newest !== undefined && epoch < newest.epoch)
          this.faults.push(`${id} is welcomed with epoch ${epoch} after ${newest.epoch}`);
        this.#newest.set(id, { connection, epoch });
      }
      if (sessions.size > 1) this.faults.push(`${id} has ${sessions.size} sessions`);
    };
    this.#wires.push(wire);
    return wire;
  }

  /** A copy of a host's disk wakes up elsewhere. */
  clone(host: ModelHost): void {
    if (this.clones.length >= 2) return;
    const clone = host.clone(this.#wire(host.setup.id), join(this.#dir, `clone-${this.clones.length}`));
    this.clones.push(clone);
    clone.start();
  }

  /** A customer's or an operator's call, left to itself; that it is refused is no fault. */
  call(name: string, fn: (customer: Context, operator: Context) => Promise<void>): void {
    const { ports } = this.plane;
    if (ports === undefined) return;
    const customer = { ...this.#origin.customer.ctx, ports };
    fn(customer, systemContext(ports, "test")).then(
      () => {
        this.done[name] = (this.done[name] ?? 0) + 1;
      },
      (error) => {
        if (isAppError(error)) this.refused[error.code] = (this.refused[error.code] ?? 0) + 1;
        else if (this.plane.ports === ports) this.faults.push(`${name}: ${(error as Error).stack}`);
      },
    );
  }

  /** Keeps a copy of the database, as a nightly backup does. */
  async backUp(): Promise<void> {
    await snapshot(join(this.#dir, "trunkline.db"), join(this.#dir, "backup.db"));
    this.#backup = new Map((await this.#rows()).map((row) => [row.id, row.desiredRev]));
  }

  /** The control plane dies, and comes back with the last backup. */
  async restore(): Promise<void> {
    if (this.#backup === undefined) return;
    const retired = (await this.#rows()).filter((row) => row.state === "retired").map((row) => row.id);
    this.plane.kill();
    await this.plane.db.close();
    for (const suffix of ["", "-wal", "-shm"]) rmSync(join(this.#dir, `trunkline.db${suffix}`), { force: true });
    cpSync(join(this.#dir, "backup.db"), join(this.#dir, "trunkline.db"));
    this.plane.use(await openFileDatabase(join(this.#dir, "trunkline.db"), { migrations: MIGRATIONS }));
    this.#revisions = new Map(this.#backup);
    this.#epochs.clear();
    // Sent away for an hour, and now wanted again.
    if ((await this.#rows()).some((row) => row.state !== "retired" && retired.includes(row.id)))
      this.sentAwayUntil = this.time.mono() + SENT_AWAY_MS;
    this.plane.start();
  }

  #rows() {
    const { id, role, state, epoch, desiredRev, appliedRev, appliedSha256, appliedResults } = t.hosts;
    return this.plane.db.read
      .select({ id, role, state, epoch, desiredRev, appliedRev, appliedSha256, appliedResults })
      .from(t.hosts);
  }

  /** What must hold at every moment. */
  async check(): Promise<void> {
    for (const row of await this.#rows()) {
      const { id, desiredRev, appliedRev, appliedSha256 } = row;
      const greatest = this.#revisions.get(id) ?? 0;
      if (desiredRev < greatest) this.faults.push(`${id} went back from revision ${greatest} to ${desiredRev}`);
      this.#revisions.set(id, desiredRev);
      const newest = this.#epochs.get(id) ?? 0;
      if (row.epoch < newest) this.faults.push(`${id} went back from epoch ${newest} to ${row.epoch}`);
      this.#epochs.set(id, row.epoch);
      const host = this.hosts.find((one) => one.setup.id === id);
      const claim = `${appliedRev}:${appliedSha256}`;
      const failed = (row.appliedResults ?? []).some((result) => !result.ok);
      // The origin's own entries are no host's word: nothing was sent to anyone before the history began.
      if (appliedRev !== null && appliedSha256 !== null && !failed && host?.setup.verified.has(claim) === false)
        this.faults.push(`${id} is believed to hold ${claim}, which it never verified`);
    }
    for (const host of [...this.hosts, ...this.clones]) this.faults.push(...host.faults.splice(0));
    // Of a copied identity operators must be told; without a copy it is a false alarm. A host whose plug is pulled three times
    // in a row, before anyone noticed the first, looks the same.
    const flaps = this.hosts.some((host) =>
      host.unplugged.some((at, i, all) => (all[i + 2] ?? Infinity) - at < 100_000),
    );
    const isTrueAlarm = (fault: string) => (this.clones.length > 0 || flaps) && fault.startsWith("identity cloned");
    this.faults.push(...this.plane.faults.splice(0).filter((fault) => !isTrueAlarm(fault)));
  }

  /** Everyone works again, and nobody interferes. */
  calm(): void {
    for (const wire of this.#wires) wire.weather = "fair";
    for (const clone of this.clones) clone.kill();
    this.plane.start();
    for (const host of this.hosts) {
      host.broken.clear();
      host.start();
    }
  }

  /** Why the world is not yet as it should be; empty when it is. */
  async differences(): Promise<string[]> {
    const rows = await this.#rows();
    const found = rows.flatMap((row) => {
      if (row.state === "retired") return [];
      const name = `${row.role} ${row.id.slice(-4)}`;
      const failed = (row.appliedResults ?? []).filter((result) => !result.ok).length;
      if (this.plane.hub?.isLinked(row.id) !== true || row.state === "offline") return [`${name} is not linked`];
      if (row.appliedRev === row.desiredRev && failed === 0) return [];
      return [`${name} applied ${row.appliedRev} of ${row.desiredRev}, ${failed} items failed`];
    });
    // The dear part, once what the database says of itself is well.
    if (found.length > 0) return found;
    const ids = rows.map((row) => row.id);
    for (const [id, state] of await desiredStates(this.plane.db.read, ids)) {
      const host = this.hosts.find((one) => one.setup.id === id);
      // Let go after it had verified that it held nothing, on its copy's word or with its disk lost since: nobody tells it any more.
      const isLost = host?.agent?.reconciler.target === undefined || this.clones.some((one) => one.setup.id === id);
      const isGone = state.retired && isLost && host?.hasVerified(state.rev);
      if (host === undefined || isGone) continue;
      const wanted = [...kernelOf(state.items, host.wall())].sort().join("\n");
      const held = [...host.kernel].sort().join("\n");
      if (wanted !== held) found.push(`${host.setup.role} ${id.slice(-4)} holds\n${held}\ninstead of\n${wanted}`);
    }
    return found;
  }

  /** Lets time go by until all is as it should be; answers how much that took, and what still differs after that long. */
  async rest(mostMs: number): Promise<{ waited: number; left: string[]; faults: string[] }> {
    let left = await this.differences();
    let waited = 0;
    const most = mostMs + Math.max(0, this.sentAwayUntil - this.time.mono());
    for (; waited < most && left.length > 0; waited += 2000) {
      await this.time.advance(2000);
      await this.check();
      left = await this.differences();
    }
    return { waited, left, faults: this.faults };
  }

  /** What operators were told of a host, oldest first. */
  async eventsOf(host: ModelHost): Promise<{ kind: string; detail: string }[]> {
    const { kind, detail, hostId } = t.hostEvents;
    return this.plane.db.read.select({ kind, detail }).from(t.hostEvents).where(eq(hostId, host.setup.id));
  }

  lineIds(): readonly Id<"lin">[] {
    return this.#origin.lines;
  }

  async activeConnection(lineId: Id<"lin">): Promise<Id<"con"> | undefined> {
    const rows = await this.plane.db.read.select().from(t.connections).where(eq(t.connections.lineId, lineId));
    return rows.find((row) => row.state === "active")?.id;
  }
}
