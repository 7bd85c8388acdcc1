import { type RawItem, stateSignedBytes } from "../../shared/protocol/desired-state.ts";
import type { StateFrame, TaskFrame } from "../../shared/protocol/frames.ts";
import { taskSignedBytes } from "../../shared/protocol/tasks.ts";
import type { SeenTasks } from "./seen-tasks.ts";
import type { Revision, SessionSetup } from "./session-types.ts";

/**
 * `forged`: not from the control plane, or not for this host. `stale`: from it, but of the past. `wrong`: against the
 * protocol. Each with a sentence.
 */
export type Verdict = { kind: "ok" } | { kind: "forged" | "stale" | "wrong"; why: string };
type Who = Pick<SessionSetup, "hostId" | "controlPlaneKeyId" | "verify" | "sha256">;

/** May this state be the host's? */
export function judgeState(frame: StateFrame, who: Who, accepted: Revision | null): Verdict {
  const { rev, sha256, items, signature } = frame;
  if (signature.keyId !== who.controlPlaneKeyId)
    return { kind: "forged", why: "state signed with a key that is not pinned" };
  if (!who.verify(stateSignedBytes({ hostId: who.hostId, rev, sha256 }), signature.value))
    return { kind: "forged", why: "state signature does not match (forged, or meant for another host)" };
  if (items && sha256Of(items, who) !== sha256) return { kind: "forged", why: "state items do not match their hash" };
  if (accepted && rev < accepted.rev)
    return { kind: "stale", why: `state ${rev} is older than ${accepted.rev}, which this host already accepted` };
  if (!items && !(accepted?.rev === rev && accepted.sha256 === sha256))
    return { kind: "wrong", why: "state said to be unchanged is not the one this host has" };
  return { kind: "ok" };
}

/** May this task run? An admitted one is remembered, so that it runs once. */
export function judgeTask(frame: TaskFrame, who: Who, seen: SeenTasks, now: number): Verdict {
  const { id, deadlineAt, signature } = frame;
  if (signature.keyId !== who.controlPlaneKeyId || !isSigned(frame, who))
    return { kind: "forged", why: "task signature does not match (forged, or meant for another host)" };
  const refusal = seen.admit(id, deadlineAt, now);
  return refusal === undefined ? { kind: "ok" } : { kind: "stale", why: `task ${id}: ${refusal}` };
}

function isSigned({ id, kind, params, deadlineAt, signature }: TaskFrame, who: Who): boolean {
  try {
    return who.verify(taskSignedBytes({ hostId: who.hostId, id, kind, params, deadlineAt }), signature.value);
  } catch {
    // Nested deeper than the stack goes: the control plane never signed that.
    return false;
  }
}

function sha256Of(items: readonly RawItem[], who: Who): string | undefined {
  try {
    return who.sha256(items);
  } catch {
    return undefined;
  }
}
