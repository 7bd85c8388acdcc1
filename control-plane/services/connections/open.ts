import { and, eq } from "drizzle-orm";
import nacl from "tweetnacl";
import { z } from "zod";
import { toBase64 } from "../../../shared/canonical.ts";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import { key32Schema } from "../../../shared/protocol/values.ts";
import * as t from "../../db/schema/index.ts";
import { isUniqueViolation, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { spend } from "../rate-limit.ts";
import { chooseSlot } from "./choose-pair.ts";
import { type ClientConfiguration, clientConfiguration } from "./configuration.ts";
import { endConnection } from "./end.ts";
import { connectionView, viewConnection } from "./views.ts";

export const openInput = z
  .object({
    /** Needed when a signed-in user opens; a line token names its line by itself. */
    lineId: idSchema("lin").optional(),
    clientPublicKey: key32Schema.optional(),
    /** Makes the key pair here and answers the private key, once; it is not stored. */
    generate: z.literal(true).optional(),
  })
  .refine((input) => (input.clientPublicKey === undefined) !== (input.generate === undefined), {
    message: "give clientPublicKey, or generate: true",
    path: ["clientPublicKey"],
  });

export const openQuery = z.object({ waitMs: z.coerce.number().int().min(0).max(30_000).default(0) });

export const openView = connectionView.extend({
  /** Which hosts have verified the connection by the time of this answer. */
  ready: z.object({ forward: z.boolean(), exit: z.boolean() }),
  configuration: z.unknown(),
  conf: z.string(),
  qrSvg: z.string(),
  privateKey: z.string().optional(),
});

const OPENS_A_MINUTE = 60;
/** How much of the wait one forward host gets before another is tried. */
const FORWARD_PATIENCE = 0.5;

type Connection = typeof t.connections.$inferSelect;

/**
 * Opens the line's connection for a client's key; a newer one replaces the older. With `waitMs` the answer waits until the
 * exit and the forward host have verified it, so that the configuration works when the caller gets it; a forward host that
 * stays silent is replaced by another.
 *
 * Throws `unauthenticated`, `not_found`, `line_not_active`, `no_forward_host`, `lines_busy`, `rate_limited`.
 */
export async function openConnection(ctx: Context, input: z.infer<typeof openInput>, waitMs: number) {
  const { ports } = ctx;
  const line = await findLine(ctx, input.lineId);
  await spend(ctx, [{ key: `open:${line.id}`, limit: OPENS_A_MINUTE, windowMs: 60_000 }]);
  const keys = input.generate ? nacl.box.keyPair.fromSecretKey(ports.random.bytes(32)) : undefined;
  const clientPublicKey = keys ? toBase64(keys.publicKey) : input.clientPublicKey;
  if (clientPublicKey === undefined) throw new AppError("validation_failed");

  const waitUntil = ports.clock.now() + waitMs;
  const silent = new Set<Id<"hst">>();
  let connection = await insertConnection(ctx, line.id, clientPublicKey, silent, undefined);
  let ready = await awaitHosts(ctx, connection, waitMs === 0 ? 0 : Math.ceil(waitMs * FORWARD_PATIENCE));
  while (!ready.forward && ports.clock.now() < waitUntil) {
    silent.add(connection.forwardHostId);
    const moved = await moveAway(ctx, connection, clientPublicKey, silent);
    // No other forward host: keep waiting for this one.
    if (moved !== undefined) connection = moved;
    ready = await awaitHosts(ctx, connection, waitUntil - ports.clock.now());
    if (moved === undefined) break;
  }
  if (ready.forward && !ready.exit) ready = await awaitHosts(ctx, connection, waitUntil - ports.clock.now());

  const configuration = await clientConfiguration(ports, connection.id);
  return {
    ...viewConnection(connection),
    ready,
    ...configuration.render(keys === undefined ? undefined : toBase64(keys.secretKey)),
  } satisfies z.infer<typeof openView> & { configuration: ClientConfiguration };
}

async function findLine(ctx: Context, lineId: Id<"lin"> | undefined): Promise<typeof t.lines.$inferSelect> {
  const { actor } = ctx;
  let where: ReturnType<typeof and>;
  if (actor.kind === "line") {
    if (lineId !== undefined && lineId !== actor.lineId) throw new AppError("not_found");
    where = eq(t.lines.id, actor.lineId);
  } else if (actor.kind === "user") {
    if (lineId === undefined)
      throw new AppError("validation_failed", "lineId is missing", {
        issues: [{ path: "lineId", message: "is missing" }],
      });
    where = and(eq(t.lines.id, lineId), eq(t.lines.userId, actor.userId));
  } else throw new AppError("unauthenticated");
  const [line] = await ctx.ports.db.read.select().from(t.lines).where(where);
  if (line === undefined) throw new AppError("not_found");
  return line;
}

/**
 * One transaction: the old connection ends, a port is found, the new one stands, its hosts get their revisions. With
 * `moving` it replaces that connection and no other: a move must not end one that was opened since.
 */
async function insertConnection(
  ctx: Context,
  lineId: Id<"lin">,
  clientPublicKey: string,
  exclude: ReadonlySet<Id<"hst">>,
  moving: Id<"con"> | undefined,
): Promise<Connection> {
  const { ports } = ctx;
  try {
    return await transaction(ctx, async (tx) => {
      const [found] = await tx.db
        .select({ line: t.lines, endsAt: t.resources.endsAt })
        .from(t.lines)
        .innerJoin(t.resources, eq(t.resources.id, t.lines.resourceId))
        .where(eq(t.lines.id, lineId));
      const now = ports.clock.now();
      if (found === undefined || found.line.state !== "active" || found.line.exitHostId === null || found.endsAt <= now)
        throw new AppError("line_not_active");
      const replaced = await endConnection(ctx, tx, lineId, moving === undefined ? "replaced" : "forward_silent");
      if (moving !== undefined && replaced?.id !== moving)
        throw new AppError("conflict", "A newer connection of the line was opened meanwhile.");
      const { pair, port } = await chooseSlot(ctx, tx, found.line, exclude);
      await tx.db.update(t.pairs).set({ lastPort: port }).where(eq(t.pairs.id, pair.id));
      const id = makeId(ports, "con");
      const { exitHostId } = found.line;
      const revs = await tx.touchHosts([pair.forwardHostId, exitHostId], (hostId) =>
        hostId === exitHostId
          ? `peer of connection ${id} added`
          : `relay of port ${port} to exit ${exitHostId} added for connection ${id}`,
      );
      const row: Connection = {
        id,
        lineId,
        pairId: pair.id,
        forwardHostId: pair.forwardHostId,
        exitHostId,
        port,
        clientPublicKey,
        state: "active",
        forwardRev: revs.get(pair.forwardHostId) ?? 0,
        exitRev: revs.get(exitHostId) ?? 0,
        openedAt: now,
        closedAt: null,
        closeReason: null,
      };
      await tx.db.insert(t.connections).values(row);
      await tx.audit(
        "connection.open",
        row.id,
        replaced === undefined ? null : { replaced: replaced.id },
        viewConnection(row),
      );
      ports.metrics.count("ports_allocated");
      return row;
    });
  } catch (error) {
    // Another process was faster. Its connection is newer than what this request saw, so this one gives way.
    if (isUniqueViolation(error, "connections.")) throw new AppError("conflict", "Another open won; try again.");
    throw error;
  }
}

/** Moves the connection to another forward host; undefined when there is none, or when it is no longer the newest. */
async function moveAway(
  ctx: Context,
  connection: Connection,
  clientPublicKey: string,
  silent: ReadonlySet<Id<"hst">>,
): Promise<Connection | undefined> {
  try {
    return await insertConnection(ctx, connection.lineId, clientPublicKey, silent, connection.id);
  } catch (error) {
    if (error instanceof AppError && ["no_forward_host", "lines_busy", "conflict"].includes(error.code))
      return undefined;
    throw error;
  }
}

async function awaitHosts(ctx: Context, connection: Connection, timeoutMs: number) {
  const [forward = false, exit = false] = await ctx.ports.fleet.waitApplied(
    [
      { hostId: connection.forwardHostId, rev: connection.forwardRev, items: [connection.id] },
      { hostId: connection.exitHostId, rev: connection.exitRev, items: ["tunnel", "whitelist"] },
    ],
    Math.max(0, timeoutMs),
  );
  return { forward, exit };
}
