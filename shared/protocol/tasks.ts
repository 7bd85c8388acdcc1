import { z } from "zod";
import { signedBytes } from "../canonical.ts";
import { idSchema } from "../ids.ts";
import { manifestTextSchema } from "./release.ts";
import { interfaceSchema, ipv4Schema, key32Schema, portSchema, signatureSchema } from "./values.ts";

/** Typed tasks: all that the control plane can ask of an agent beside its desired state. There is no remote shell. */

/** Something sealed to an agent's box key with a one-time key (tweetnacl box: X25519, XSalsa20, Poly1305). Base 64. */
export const sealedSchema = z.object({
  ephemeralPublicKey: key32Schema,
  nonce: z.string().max(44),
  box: z.string().max(4096),
});
export type Sealed = z.infer<typeof sealedSchema>;

export const pingParamsSchema = z.object({
  target: ipv4Schema,
  /** Interface to send from, or null to let the routing table decide. */
  interface: interfaceSchema.nullable(),
  count: z.number().int().min(1).max(10_000),
  intervalMs: z.number().int().min(10).max(60_000),
});

export const captureParamsSchema = z.object({
  captureId: idSchema("cap"),
  /** A name, or which of the host's interfaces: its WireGuard tunnel, or the one of the default route. */
  point: z.enum(["tunnel", "outside"]),
  filter: z.string().max(1024),
  seconds: z.number().int().min(1).max(300),
  bytes: z.number().int().min(1).max(1_073_741_824),
  packets: z.number().int().min(1).nullable(),
  snapLength: z.number().int().min(16).max(65_535),
  /** Traffic that must not be captured: the capture's own way out, and the control link. */
  exclude: z.array(z.object({ address: ipv4Schema, port: portSchema })).max(16),
  /** Where the bytes go: a forward host's uplink, by its private address. */
  uplink: z.object({ address: ipv4Schema, port: portSchema }),
  /** The TLS-PSK identity. The key is in `sealed`: JSON {psk: base 64 of 32 bytes}. */
  ticket: z.string().min(16).max(64),
  sealed: sealedSchema,
});

export const uplinkParamsSchema = z.object({
  captureId: idSchema("cap"),
  ticket: z.string().min(16).max(64),
  /** JSON {psk, uploadToken}: the key the sender proves, and the bearer token for the upload. */
  sealed: sealedSchema,
  /** Most bytes this ticket may carry. */
  bytes: z.number().int().min(1).max(2_147_483_648),
  /** Path on the control plane that takes `PUT ?offset=N` chunks. */
  uploadPath: z.string().regex(/^\/[A-Za-z0-9/_-]{1,200}$/),
});

/**
 * Bring this host to another version of the agent. Asked again and again under one `attempt`, by whichever process holds
 * the link, until the answer is final: the first time it begins, later it says how far it is.
 */
export const upgradeParamsSchema = z.object({
  attempt: idSchema("tsk"),
  /** The release's manifest, and its signature by the release key, which is not the control plane's. */
  manifest: manifestTextSchema,
  signature: signatureSchema,
  /** How long the new version has to be linked, in sync and confirmed; then the previous one comes back. */
  trialS: z.number().int().min(5).max(3600),
  /** Taking an older version is meant. */
  older: z.boolean(),
  /** The control plane has this version's hello and its ack: commit. */
  commit: z.boolean(),
});

export const taskParamsSchemas = {
  ping: pingParamsSchema,
  capture: captureParamsSchema,
  uplink: uplinkParamsSchema,
  upgrade: upgradeParamsSchema,
} as const;

export type PingParams = z.infer<typeof pingParamsSchema>;
export type CaptureParams = z.infer<typeof captureParamsSchema>;
export type UplinkParams = z.infer<typeof uplinkParamsSchema>;
export type UpgradeParams = z.infer<typeof upgradeParamsSchema>;

export const taskRequestSchema = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("ping"), params: pingParamsSchema }),
  z.object({ kind: z.literal("capture"), params: captureParamsSchema }),
  z.object({ kind: z.literal("uplink"), params: uplinkParamsSchema }),
  z.object({ kind: z.literal("upgrade"), params: upgradeParamsSchema }),
]);
export type TaskRequest = z.infer<typeof taskRequestSchema>;
export type TaskKind = TaskRequest["kind"];

/** Events of a ping, in the order they happened. A late answer can follow "no answer yet" of the same sequence number. */
export const pingEventSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("reply"), seq: z.number().int(), rttMs: z.number(), at: z.number() }),
  z.object({ type: z.literal("no_answer_yet"), seq: z.number().int(), at: z.number() }),
]);
export type PingEvent = z.infer<typeof pingEventSchema>;

/** How a ping ended. Times in ms; null when nothing was received. `jitterMs` as in RFC 3550. */
export const pingResultSchema = z.object({
  sent: z.number().int(),
  received: z.number().int(),
  lossPct: z.number(),
  minMs: z.number().nullable(),
  meanMs: z.number().nullable(),
  p50Ms: z.number().nullable(),
  p95Ms: z.number().nullable(),
  p99Ms: z.number().nullable(),
  jitterMs: z.number().nullable(),
  longestLossRun: z.number().int(),
});
export type PingResult = z.infer<typeof pingResultSchema>;

/** How the capturing agent's part ended. */
export const captureResultSchema = z.object({
  /** Which limit was reached first, or why it ended. */
  stopReason: z.enum(["seconds", "bytes", "packets", "stopped"]),
  /** Bytes of pcap sent into the uplink. */
  bytes: z.number().int(),
  packets: z.number().int(),
  receivedByFilter: z.number().int(),
  droppedByKernel: z.number().int(),
  interface: z.string(),
  startedAt: z.number().int(),
  endedAt: z.number().int(),
});
export type CaptureResult = z.infer<typeof captureResultSchema>;

/** How the relaying agent's part ended. */
export const uplinkResultSchema = z.object({ bytes: z.number().int() });
export type UplinkResult = z.infer<typeof uplinkResultSchema>;

/** How far an upgrade is. `staged`: fetched and checked, the agent restarts now. The last two are final. */
export const upgradeResultSchema = z.discriminatedUnion("state", [
  z.object({ state: z.literal("staged") }),
  z.object({ state: z.literal("trial"), starts: z.number().int() }),
  z.object({ state: z.literal("committed") }),
  z.object({
    state: z.literal("returned"),
    reason: z.string().max(500),
    /** The last lines that the new version, and systemd about it, wrote to the journal. */
    lastWords: z.string().max(4000),
  }),
]);
export type UpgradeResult = z.infer<typeof upgradeResultSchema>;

/** What a task came to. `error` is a short code and a sentence; `result` by kind. */
export const taskOutcomeSchema = z.discriminatedUnion("ok", [
  z.object({ ok: z.literal(true), result: z.unknown() }),
  z.object({
    ok: z.literal(false),
    error: z.object({ code: z.string().max(64), detail: z.string().max(2000) }),
  }),
]);
export type TaskOutcome = z.infer<typeof taskOutcomeSchema>;

/** The bytes the control plane signs for a task: they name the host and the deadline. */
export function taskSignedBytes(task: {
  hostId: string;
  id: string;
  kind: string;
  params: unknown;
  deadlineAt: number;
}): Uint8Array<ArrayBuffer> {
  const { hostId, id, kind, params, deadlineAt } = task;
  return signedBytes("trunkline.task.v1", { hostId, id, kind, params, deadlineAt });
}
