import { sql } from "drizzle-orm";
import { canonicalJson, canonicalSha256, fromBase64 } from "../../shared/canonical.ts";
import type { Id } from "../../shared/ids.ts";
import { stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import { type HelloFrame, helloSignedBytes } from "../../shared/protocol/frames.ts";
import { inList } from "../db/indexed.ts";
import { prepared } from "../db/prepared.ts";
import * as t from "../db/schema/index.ts";
import { type Context, makeId } from "../services/context.ts";
import { desiredStates, type HostState } from "../services/hosts/desired-state.ts";
import { type Joined, joinHosts } from "../services/hosts/join.ts";
import { failedItems } from "./applied-waiters.ts";
import type { Identified, SignedState } from "./session.ts";

export type Hello = {
  hello: HelloFrame;
  nonce: string;
  /** False once the link it came by is gone. */
  alive(): boolean;
};
export type Answer = Identified & { role?: string };

const KNOWN = prepared((db) =>
  db
    .select({
      id: t.hosts.id,
      role: t.hosts.role,
      identity: t.hosts.identityPublicKey,
      state: t.hosts.state,
      desiredRev: t.hosts.desiredRev,
      appliedRev: t.hosts.appliedRev,
      appliedSha256: t.hosts.appliedSha256,
      appliedResults: t.hosts.appliedResults,
    })
    .from(t.hosts)
    .where(inList(t.hosts.id, sql.placeholder("ids")))
    .prepare(),
);
type Known = Awaited<ReturnType<ReturnType<typeof KNOWN>["all"]>>[number];

/**
 * Checks hellos: each from a host we know, with its identity's signature over our nonce, of an epoch newer than any before.
 * One whose link went while the signatures were checked is let in no more: it would be online without a link.
 */
export async function identify(ctx: Context, hellos: readonly Hello[]): Promise<Answer[]> {
  // Those whose links went while they waited cost nothing.
  const ids = JSON.stringify(hellos.flatMap(({ hello, alive }) => (alive() ? [hello.hostId] : [])));
  const known = new Map((await KNOWN(ctx.ports.db.read).all({ ids })).map((host) => [host.id, host]));
  const proved = await Promise.all(
    hellos.map(async (one) => {
      const host = known.get(one.hello.hostId);
      return host !== undefined && (await isProved(host, one)) ? host : undefined;
    }),
  );
  const joining = hellos.filter(({ alive }, i) => proved[i] !== undefined && alive());
  const joined = await joinHosts(
    ctx,
    joining.map(({ hello }) => hello),
  );
  return hellos.map((one, i) => answerOf(ctx, proved[i], joined[joining.indexOf(one)]));
}

function answerOf(ctx: Context, host: Known | undefined, join: Joined | undefined): Answer {
  if (host === undefined || join === undefined) return { ok: false, why: "refused" };
  return join.joined
    ? { ok: true, session: makeId(ctx.ports, "lnk"), role: host.role }
    : { ok: false, why: "stale_epoch", epoch: join.epoch };
}

async function isProved(host: Known, { hello, nonce }: Hello): Promise<boolean> {
  const key = await crypto.subtle.importKey("raw", fromBase64(host.identity), "Ed25519", false, ["verify"]);
  const bytes = helloSignedBytes({ nonce, hostId: hello.hostId, epoch: hello.epoch });
  if (!(await crypto.subtle.verify("Ed25519", key, fromBase64(hello.signature), bytes))) return false;
  return !(host.state === "retired" && (await hasCleared(host, hello)));
}

/**
 * A retired host is let in until it has been told that it should hold nothing and has verified that it does; then never again,
 * whatever it says of itself. By the content too: after a restore from a backup a host may hold a higher revision, or one of the
 * same number, with everything in it.
 */
async function hasCleared(host: Known, { applied, accepted }: HelloFrame): Promise<boolean> {
  const nothing = await canonicalSha256([]);
  const acknowledged = (host.appliedRev ?? -1) >= host.desiredRev && host.appliedSha256 === nothing;
  if (acknowledged && failedItems(host.appliedResults ?? []).length === 0) return true;
  // What it took after that could not be applied whole.
  if (accepted != null && accepted.rev !== applied?.rev) return false;
  return applied !== null && applied.rev >= host.desiredRev && applied.sha256 === nothing;
}

export type Loaded = SignedState & { retired: boolean; withheld: string[] };

/** After so much of states in canonical JSON others have their turn: hashing and sending it takes some 10 ms. */
const BYTES_A_TURN = 256 * 1024;

/**
 * Hosts' desired states as of now, each signed for its host; an error for a host that there is not.
 * @param turn comes back when the event loop has dealt with what it had before it
 */
export async function loadStates(
  ctx: Context,
  hostIds: readonly Id<"hst">[],
  turn: () => Promise<void>,
): Promise<(Loaded | Error)[]> {
  const states = await desiredStates(ctx.ports.db.read, hostIds);
  const loaded: (Loaded | Error)[] = [];
  let bytes = 0;
  for (const hostId of hostIds) {
    const state = states.get(hostId);
    if (state === undefined) loaded.push(new Error(`host ${hostId} is gone`));
    else {
      const canonical = canonicalJson(state.items);
      loaded.push(await signed(ctx, hostId, state, canonical));
      bytes += canonical.length;
      if (bytes < BYTES_A_TURN) continue;
      bytes = 0;
      await turn();
    }
  }
  return loaded;
}

async function signed(ctx: Context, hostId: Id<"hst">, state: HostState, canonical: string): Promise<Loaded> {
  const { signer } = ctx.ports;
  const sha256 = await signer.sha256(canonical);
  const value = await signer.sign(stateSignedBytes({ hostId, rev: state.rev, sha256 }));
  const { rev, items, retired, withheld } = state;
  return { rev, sha256, items, signature: { keyId: signer.keyId, value }, retired, withheld };
}
