import { eq } from "drizzle-orm";
import { canonicalJson, fromBase64 } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import { stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import { type HelloFrame, helloSignedBytes } from "../../shared/protocol/frames.ts";
import * as t from "../db/schema/index.ts";
import { type Context, makeId } from "../services/context.ts";
import { desiredState } from "../services/hosts/desired-state.ts";
import { joinHost } from "../services/hosts/report.ts";
import { failedItems } from "./applied-waiters.ts";
import type { Identified, SignedState } from "./session.ts";

/** Checks a hello: a host we know, its identity's signature over our nonce, an epoch newer than any before. */
export async function identify(
  ctx: Context,
  hello: HelloFrame,
  nonce: string,
): Promise<Identified & { role?: string }> {
  const [host] = await ctx.ports.db.read
    .select({
      role: t.hosts.role,
      identity: t.hosts.identityPublicKey,
      state: t.hosts.state,
      desiredRev: t.hosts.desiredRev,
      appliedRev: t.hosts.appliedRev,
      appliedResults: t.hosts.appliedResults,
    })
    .from(t.hosts)
    .where(eq(t.hosts.id, hello.hostId));
  if (host === undefined) return { ok: false, why: "refused" };
  const key = await crypto.subtle.importKey("raw", fromBase64(host.identity), "Ed25519", false, ["verify"]);
  const bytes = helloSignedBytes({ nonce, hostId: hello.hostId, epoch: hello.epoch });
  if (!(await crypto.subtle.verify("Ed25519", key, fromBase64(hello.signature), bytes)))
    return { ok: false, why: "refused" };
  if (host.state === "retired" && hasCleared(host, hello)) return { ok: false, why: "refused" };
  const join = await joinHost(ctx, hello);
  return join.joined
    ? { ok: true, session: makeId(ctx.ports, "lnk"), role: host.role }
    : { ok: false, why: "stale_epoch", epoch: join.epoch };
}

/**
 * A retired host is let in until it has been told that it should hold nothing and has verified that it does; then never again,
 * whatever it says of itself.
 */
function hasCleared(
  host: { desiredRev: number; appliedRev: number | null; appliedResults: t.ItemResult[] | null },
  { applied, accepted }: HelloFrame,
): boolean {
  const acknowledged = (host.appliedRev ?? -1) >= host.desiredRev;
  if (acknowledged && failedItems(host.appliedResults ?? []).length === 0) return true;
  // What it took after that could not be applied whole.
  if (accepted != null && accepted.rev !== applied?.rev) return false;
  return applied !== null && applied.rev >= host.desiredRev;
}

/** A host's desired state as of now, signed for that host. */
export async function loadState(
  ctx: Context,
  hostId: Id<"hst">,
): Promise<SignedState & { retired: boolean; withheld: string[] }> {
  const state = await desiredState(ctx.ports.db.read, hostId);
  if (state === undefined) throw new Error(`host ${hostId} is gone`);
  const { signer } = ctx.ports;
  const sha256 = await signer.sha256(canonicalJson(state.items));
  const value = await signer.sign(stateSignedBytes({ hostId, rev: state.rev, sha256 }));
  const { rev, items, retired, withheld } = state;
  return { rev, sha256, items, signature: { keyId: signer.keyId, value }, retired, withheld };
}
