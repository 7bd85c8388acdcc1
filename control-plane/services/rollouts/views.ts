import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import { hostRoleSchema } from "../../../shared/protocol/enrolment.ts";
import { ROLLOUT_HOST_STATES, ROLLOUT_STATES } from "../../db/schema/index.ts";
import { instantView, iso } from "../views.ts";
import type { RolloutCounts } from "./decide.ts";
import type { Rollout, RolloutHost } from "./rows.ts";

export const rolloutView = z.object({
  id: idSchema("rol"),
  version: z.string(),
  state: z.enum(ROLLOUT_STATES),
  /** Why it stands still. */
  haltReason: z.string().nullable(),
  target: z.object({
    hostIds: z.array(idSchema("hst")).optional(),
    role: hostRoleSchema.optional(),
    regionId: z.string().optional(),
  }),
  batch: z.number().int(),
  soakS: z.number().int(),
  trialS: z.number().int(),
  older: z.boolean(),
  waitUntil: instantView.nullable(),
  /** How many hosts are in which state. */
  hosts: z.record(z.enum(ROLLOUT_HOST_STATES), z.number().int()),
  createdBy: z.string(),
  createdAt: instantView,
  endedAt: instantView.nullable(),
});

export function viewRollout(row: Rollout, { canaries, others }: RolloutCounts): z.infer<typeof rolloutView> {
  const { id, version, state, haltReason, target, batch, soakMs, trialS, older, createdBy } = row;
  const sums = ROLLOUT_HOST_STATES.map((name) => [name, canaries[name] + others[name]]);
  return {
    id,
    version,
    state,
    haltReason,
    target,
    batch,
    soakS: soakMs / 1000,
    trialS,
    older,
    waitUntil: iso(row.waitUntil),
    hosts: Object.fromEntries(sums),
    createdBy,
    createdAt: iso(row.createdAt),
    endedAt: iso(row.endedAt),
  };
}

export const rolloutHostView = z.object({
  hostId: idSchema("hst"),
  canary: z.boolean(),
  state: z.enum(ROLLOUT_HOST_STATES),
  /** Sent, and the new version runs on trial. */
  onTrial: z.boolean(),
  fromVersion: z.string().nullable(),
  sentAt: instantView.nullable(),
  endedAt: instantView.nullable(),
  error: z.string().nullable(),
  /** Of a version that was given up: its last lines in the host's journal. */
  lastWords: z.string().nullable(),
});

export function viewRolloutHost(row: RolloutHost): z.infer<typeof rolloutHostView> {
  const { hostId, canary, state, onTrial, fromVersion, error, lastWords } = row;
  const [sentAt, endedAt] = [iso(row.sentAt), iso(row.endedAt)];
  return {
    hostId,
    canary,
    state,
    onTrial: onTrial && state === "sent",
    fromVersion,
    sentAt,
    endedAt,
    error,
    lastWords,
  };
}
