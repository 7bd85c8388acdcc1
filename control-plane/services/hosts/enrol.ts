import { and, eq, gt, isNull, lt, sql } from "drizzle-orm";
import { sha256Hex } from "../../../shared/canonical.ts";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import type { EnrolRequest, EnrolResponse } from "../../../shared/protocol/enrolment.ts";
import * as t from "../../db/schema/index.ts";
import { isUniqueViolation, transaction } from "../../db/transaction.ts";
import { type Context, makeId } from "../context.ts";
import { isToken } from "../secrets.ts";

const DEFAULT_WIREGUARD_PORT = 51_820;
const DEFAULT_UPLINK_PORT = 51_821;

/**
 * A host presents an enrolment token and its public keys, and becomes a host that waits for an operator's approval. The
 * token is used up by one conditional update; asked again with the same keys and token, the answer is the same. Throws `enrolment_refused` whatever is wrong with the token, `conflict`
 * when the identity is enrolled already.
 */
export async function enrolHost(ctx: Context, token: string, input: EnrolRequest): Promise<EnrolResponse> {
  const { ports } = ctx;
  if (!isToken(token, "enr")) throw new AppError("enrolment_refused");
  if ((input.role === "exit") !== (input.wireguardPublicKey !== null))
    throw new AppError("validation_failed", "An exit, and only an exit, has a WireGuard key.");
  const tokenHash = await sha256Hex(token);
  const controlPlaneKey = { keyId: ports.signer.keyId, publicKey: ports.signer.publicKey };
  const before = await enrolledBefore(ctx, tokenHash, input);
  if (before !== undefined) return { hostId: before, controlPlaneKey };
  const now = ports.clock.now();
  const hostId = makeId(ports, "hst");
  try {
    await transaction({ ...ctx, actor: { kind: "system", name: "enrolment" } }, async (tx) => {
      const [used] = await tx.db
        .update(t.enrolmentTokens)
        .set({ used: sql`used + 1` })
        .where(
          and(
            eq(t.enrolmentTokens.tokenHash, tokenHash),
            eq(t.enrolmentTokens.role, input.role),
            lt(t.enrolmentTokens.used, t.enrolmentTokens.maxUses),
            gt(t.enrolmentTokens.expiresAt, now),
          ),
        )
        .returning();
      if (used === undefined) throw new AppError("enrolment_refused");
      await tx.db.insert(t.hosts).values({
        id: hostId,
        role: input.role,
        regionId: used.regionId,
        name: input.facts.hostname,
        approved: false,
        state: "pending",
        relayDriver: "nft",
        wireguardPort: DEFAULT_WIREGUARD_PORT,
        uplinkPort: DEFAULT_UPLINK_PORT,
        enrolmentTokenId: used.id,
        identityPublicKey: input.identityPublicKey,
        boxPublicKey: input.boxPublicKey,
        wireguardPublicKey: input.wireguardPublicKey,
        facts: input.facts,
        version: input.version,
        desiredRev: 0,
        epoch: 0,
        createdAt: now,
      });
      await tx.audit("host.enrol", hostId, null, { role: input.role, token: used.id, facts: input.facts });
    });
  } catch (error) {
    if (isUniqueViolation(error, "hosts.identity_public_key"))
      throw new AppError("conflict", "This identity is enrolled already.");
    throw error;
  }
  return { hostId, controlPlaneKey };
}

/** The first answer may have been lost on its way: the same keys with the same token are the same host, and use nothing up. */
async function enrolledBefore(ctx: Context, tokenHash: string, input: EnrolRequest): Promise<Id<"hst"> | undefined> {
  const [row] = await ctx.ports.db.read
    .select({ id: t.hosts.id })
    .from(t.hosts)
    .innerJoin(t.enrolmentTokens, eq(t.enrolmentTokens.id, t.hosts.enrolmentTokenId))
    .where(
      and(
        eq(t.enrolmentTokens.tokenHash, tokenHash),
        eq(t.hosts.identityPublicKey, input.identityPublicKey),
        eq(t.hosts.boxPublicKey, input.boxPublicKey),
        input.wireguardPublicKey === null
          ? isNull(t.hosts.wireguardPublicKey)
          : eq(t.hosts.wireguardPublicKey, input.wireguardPublicKey),
        eq(t.hosts.role, input.role),
      ),
    );
  return row?.id;
}
