import { and, asc, eq, inArray, ne } from "drizzle-orm";
import { z } from "zod";
import { fromBase64 } from "../../../shared/canonical.ts";
import { AppError } from "../../../shared/errors.ts";
import { type Id, idSchema } from "../../../shared/ids.ts";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import { compareVersions, parseManifest, releaseSignedBytes, versionSchema } from "../../../shared/protocol/release.ts";
import * as t from "../../db/schema/index.ts";
import { isUniqueViolation, type Transaction, transaction } from "../../db/transaction.ts";
import type { Ports, SignedManifest } from "../../ports/index.ts";
import { actorName, type Context, makeId } from "../context.ts";
import { isOnline } from "../hosts/reach.ts";
import { slugSchema } from "../views.ts";
import { countHosts, type Rollout, stepKey } from "./rows.ts";
import { viewRollout } from "./views.ts";

const hostIds = z.array(idSchema("hst")).min(1).max(1000);

export const rolloutInput = z.object({
  version: versionSchema,
  /** Hosts that fit every member given; all hosts when there is none. */
  target: z.object({ hostIds: hostIds.optional(), role: hostRoleSchema.optional(), regionId: slugSchema.optional() }),
  /** Hosts that go first; one of each role, online ones before others, when absent. */
  canaryHostIds: hostIds.optional(),
  /** Hosts under way at once. */
  batch: z.number().int().min(1).max(500).default(10),
  /** How long the canaries run it before the others get it. */
  soakS: z.number().int().min(0).max(604_800).default(600),
  /** How long a host has to link and be in sync with it before the version it had comes back. */
  trialS: z.number().int().min(5).max(3600).default(120),
  /** Hosts with a newer version take this older one. */
  older: z.boolean().default(false),
});
export type RolloutInput = z.infer<typeof rolloutInput>;

type Host = typeof t.hosts.$inferSelect;

/**
 * Sets a version of the agent as the target of hosts: canaries first, then the others in batches. Throws `not_found` for a
 * release or host there is not, `conflict` when the release is not signed, when no host would change, or when one of them
 * takes part in another rollout.
 */
export async function createRollout(ctx: Context, input: RolloutInput) {
  const { ports } = ctx;
  const signed = await signedRelease(ports, input.version);
  try {
    return await transaction(ctx, async (tx) => {
      const chosen = await chooseHosts(tx, input);
      const canaries = chooseCanaries(chosen, input, ports.clock.now());
      const now = ports.clock.now();
      const row: Rollout = {
        id: makeId(ports, "rol"),
        version: input.version,
        ...signed,
        target: input.target,
        state: "canary",
        batch: input.batch,
        soakMs: input.soakS * 1000,
        trialS: input.trialS,
        older: input.older,
        waitUntil: null,
        haltReason: null,
        resumes: 0,
        createdBy: actorName(ctx.actor),
        createdAt: now,
        endedAt: null,
      };
      await tx.db.insert(t.rollouts).values(row);
      const parts = chosen.map((host) => ({
        rolloutId: row.id,
        hostId: host.id,
        canary: canaries.has(host.id),
        state: "pending" as const,
        onTrial: false,
      }));
      for (let i = 0; i < parts.length; i += 500) await tx.db.insert(t.rolloutHosts).values(parts.slice(i, i + 500));
      const view = viewRollout(row, await countHosts(tx.db, row.id));
      await tx.audit("rollout.create", row.id, null, view);
      await tx.job("rollout.step", { rolloutId: row.id }, now, stepKey(row));
      return view;
    });
  } catch (error) {
    if (isUniqueViolation(error, "rollout_hosts.host_id"))
      throw new AppError("conflict", "One of these hosts takes part in another rollout. Cancel that one first.");
    throw error;
  }
}

/** A release that hosts would take. Checked here too, so that a missing signature is told to the operator and not by every host. */
async function signedRelease(ports: Ports, version: string): Promise<SignedManifest> {
  const { releases } = ports;
  const signed = await releases.signed(version);
  if (signed === undefined) {
    if (!(await releases.versions()).includes(version))
      throw new AppError("not_found", `There is no release ${version}.`);
    throw new AppError("conflict", `The release ${version} is not signed.`);
  }
  const bytes = releaseSignedBytes(signed.manifest);
  for (const raw of await releases.keys()) {
    const key = await crypto.subtle.importKey("raw", fromBase64(raw), "Ed25519", false, ["verify"]);
    const isBy = await crypto.subtle.verify("Ed25519", key, fromBase64(signed.signature), bytes).catch(() => false);
    if (isBy && parseManifest(signed.manifest).version === version) return signed;
  }
  throw new AppError("conflict", `The release ${version} is not signed by a key in release.pub.`);
}

async function chooseHosts(tx: Transaction, { target, version, older }: RolloutInput): Promise<Host[]> {
  const { hostIds: ids, role, regionId } = target;
  const found = await tx.db
    .select()
    .from(t.hosts)
    .where(
      and(
        eq(t.hosts.approved, true),
        ne(t.hosts.state, "retired"),
        ids === undefined ? undefined : inArray(t.hosts.id, ids),
        role === undefined ? undefined : eq(t.hosts.role, role),
        regionId === undefined ? undefined : eq(t.hosts.regionId, regionId),
      ),
    )
    .orderBy(asc(t.hosts.id));
  if (ids !== undefined && found.length < new Set(ids).size)
    throw new AppError(
      "not_found",
      "One of these hosts is unknown, not approved, retired or not of that role and region.",
    );
  const chosen = found.filter((host) => {
    const order = compareVersions(version, host.version);
    return order > 0 || (order < 0 && older);
  });
  if (chosen.length > 0) return chosen;
  throw new AppError(
    "conflict",
    `No host to change: each has ${version} or a newer one, or there is none of that kind.`,
  );
}

function chooseCanaries(chosen: readonly Host[], { canaryHostIds }: RolloutInput, now: number): Set<Id<"hst">> {
  if (canaryHostIds !== undefined) {
    const ids = new Set(chosen.map((host) => host.id));
    if (!canaryHostIds.every((id) => ids.has(id)))
      throw new AppError("conflict", "A canary must be one of the hosts that change.");
    return new Set(canaryHostIds);
  }
  // The roles run different code: one of each has to show that it works.
  const first = new Map<string, Host>();
  for (const host of chosen) {
    const other = first.get(host.role);
    if (other === undefined || (!isOnline(other, now) && isOnline(host, now))) first.set(host.role, host);
  }
  return new Set([...first.values()].map((host) => host.id));
}
