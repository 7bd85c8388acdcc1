import { z } from "zod";
import { signedBytes } from "../canonical.ts";
import { idSchema } from "../ids.ts";
import { rawItemSchema } from "./desired-state.ts";
import { taskOutcomeSchema } from "./tasks.ts";
import { ipv4Schema, key32Schema, sha256Schema, signatureSchema } from "./values.ts";
import { SUBPROTOCOLS, understandsSchema } from "./versions.ts";

/** The link's sub-protocol: one JSON object a WebSocket text message, told apart by `t`. */
export const SUBPROTOCOL = SUBPROTOCOLS[0];
/** Largest frame an agent may send, and largest the control plane may send, in bytes. */
export const MAX_FRAME_UP = 256 * 1024;
export const MAX_FRAME_DOWN = 1024 * 1024;
/** How often either side pings, and how long a silence means the link is dead. */
export const HEARTBEAT_MS = 15_000;
export const SILENCE_MS = 40_000;

// Far above any real revision, and far below where adding one is no longer exact: what a host says of itself is stored.
const rev = z
  .number()
  .int()
  .nonnegative()
  .max(2 ** 50);
/** UTC ms by some clock. Within what a date can say and a row can hold: what a host says of itself is stored and shown. */
const instant = z
  .number()
  .min(0)
  .max(2 ** 50);
const signature = z.object({ keyId: z.string().max(64), value: signatureSchema });
const ping = z.object({ t: z.literal("ping"), id: z.number().int().nonnegative(), at: instant });
/** `at` is the answering side's clock, for the midpoint estimate of the clock offset. */
const pong = z.object({ t: z.literal("pong"), id: z.number().int().nonnegative(), at: instant });

export const challengeFrame = z.object({
  t: z.literal("challenge"),
  nonce: z.string().min(16).max(128),
  serverTime: z.number(),
});

export const helloFrame = z.object({
  t: z.literal("hello"),
  hostId: idSchema("hst"),
  epoch: z.number().int().nonnegative(),
  /** Ed25519 by the agent's identity over {@link helloSignedBytes}. */
  signature: signatureSchema,
  version: z.string().max(64),
  bootId: z.string().max(64),
  capabilities: z.array(z.string().max(64)).max(64),
  /** The last state the host applied and verified, or null when it never had one. */
  applied: z.object({ rev, sha256: sha256Schema }).nullable(),
  /** The last state it took, applied or not: it refuses anything older. */
  accepted: z.object({ rev, sha256: sha256Schema }).nullable().optional(),
  /** The forward host through whose pass-through this link goes; absent for a direct one. */
  via: idSchema("hst").optional(),
  /** Absent: an agent of before there was such a list. */
  understands: understandsSchema.optional(),
});

export const welcomeFrame = z.object({
  t: z.literal("welcome"),
  session: idSchema("lnk"),
  heartbeatMs: z.number().int().positive(),
  silenceMs: z.number().int().positive(),
  /** It keeps events of kinds that it does not know. Absent: one of before that, to which such an event is a bad frame. */
  anyEvents: z.boolean().optional(),
});

export const stateFrame = z.object({
  t: z.literal("state"),
  rev,
  sha256: sha256Schema,
  /** Null: unchanged, the agent already has this revision and hash. */
  items: z.array(rawItemSchema).max(10_000).nullable(),
  signature,
});

export const ackFrame = z.object({
  t: z.literal("ack"),
  rev,
  sha256: sha256Schema,
  results: z
    .array(z.object({ item: z.string().max(64), ok: z.boolean(), error: z.string().max(500).optional() }))
    .max(10_000),
});

/** The kinds of events this release's agent sends. */
export const HOST_EVENT_KINDS = [
  "drift_repaired",
  "apply_failed",
  "expired_on_host",
  "frame_refused",
  "disk_failed",
  "disk_recovered",
] as const;

/** Those that every control plane takes. */
export const FIRST_EVENT_KINDS: readonly string[] = HOST_EVENT_KINDS.slice(0, 4);

/** Something that happened on the host and that an operator should see. A newer agent may send kinds that are not known here. */
export const hostEventSchema = z.object({
  at: instant,
  kind: z.union([z.enum(HOST_EVENT_KINDS), z.string().regex(/^[a-z_]{1,32}$/)]),
  item: z.string().max(64).optional(),
  detail: z.string().max(500),
});
export type HostEvent = z.infer<typeof hostEventSchema>;

/** Of a ping, in ms. Far above what a host waits for, and far below what a row of sums can hold. */
const roundTrip = z.number().nonnegative().max(600_000);

/** How a next hop answered a few pings in a row. Times in ms; null when nothing was answered. */
export const pathProbeSchema = z.object({
  target: ipv4Schema,
  /** UTC ms by the host's clock: two rounds with the same outcome are two rounds. */
  at: instant,
  sent: z.number().int().min(0).max(1000),
  received: z.number().int().min(0).max(1000),
  minMs: roundTrip.nullable(),
  p50Ms: roundTrip.nullable(),
  maxMs: roundTrip.nullable(),
});
export type PathProbe = z.infer<typeof pathProbeSchema>;

// Far below where adding one to a sum of such counts is no longer exact.
const total = z
  .number()
  .int()
  .nonnegative()
  .max(2 ** 50);
/** Names one count of one host, from its first byte to its last. Its figures only grow. */
const life = z.string().regex(/^[0-9a-f]{16}$/);
const peerUsage = z.object({
  life,
  publicKey: key32Schema,
  /** What the exit received from the client, and sent to it, with WireGuard's own. */
  rxBytes: total,
  txBytes: total,
});

/** What the host sees. Each member is sent only when it changed since the last frame of this session; a present member is whole. */
export const observationSchema = z.object({
  wireguard: z
    .array(
      z.object({
        interface: z.string().max(15),
        peers: z
          .array(
            z.object({
              publicKey: key32Schema,
              endpoint: z.string().max(64).nullable(),
              /** UTC ms, or null when there was none. */
              lastHandshakeAt: instant.nullable(),
              rxBytes: z.number(),
              txBytes: z.number(),
            }),
          )
          .max(1024),
      }),
    )
    .max(16)
    .optional(),
  relays: z
    .array(
      z.object({
        item: z.string().max(64),
        flows: z.number().int(),
        /** Both directions, all flows so far, the ended ones too: only ever grows. An item that has gone is named once more. */
        bytes: z.number().optional(),
      }),
    )
    .max(10_000)
    .optional(),
  whitelist: z
    .array(
      z.object({
        item: z.string().max(64),
        deniedPackets: z.number(),
        entries: z.number().int(),
        /** Addresses that listed names now stand for, and questions for names that are not listed, so far. */
        addresses: z.number().int().optional(),
        deniedNames: z.number().int().optional(),
      }),
    )
    .max(16)
    .optional(),
  /** What peers moved and whitelists refused so far, over resets of the kernel's counters. */
  usage: z
    .object({
      peers: z.array(peerUsage.extend({ lastHandshakeAt: instant.nullable() })).max(1024),
      denied: z.array(z.object({ life, packets: total, names: total })).max(16),
    })
    .optional(),
  /** The final figures of the peers removed last. */
  usageEnded: z.array(peerUsage).max(64).optional(),
  /** `drops`: flows refused or thrown out because the table was full, since boot. */
  conntrack: z
    .object({ count: z.number().int(), max: z.number().int(), drops: z.number().int().optional() })
    .optional(),
  /** Datagrams the kernel took and gave to nobody, since boot; `rcvbufErrors` are those a full socket buffer cost. */
  udp: z
    .object({ inErrors: z.number().int(), rcvbufErrors: z.number().int(), sndbufErrors: z.number().int() })
    .optional(),
  /** The last round of probes of the next hops, once a minute; where there are many, those whose turn it was. */
  paths: z.array(pathProbeSchema).max(64).optional(),
  load1: z.number().optional(),
  memoryUsedBytes: z.number().optional(),
});
export type Observation = z.infer<typeof observationSchema>;

export const observeFrame = z.object({
  t: z.literal("observe"),
  at: z.number(),
  values: observationSchema,
  events: z.array(hostEventSchema).max(100),
});

export const taskFrame = z.object({
  t: z.literal("task"),
  id: idSchema("tsk"),
  kind: z.string().max(32),
  params: z.unknown(),
  deadlineAt: z.number().int(),
  signature,
});
export const taskEventFrame = z.object({
  t: z.literal("task.event"),
  id: idSchema("tsk"),
  seq: z.number().int().nonnegative(),
  data: z.unknown(),
});
export const taskEndFrame = z.object({ t: z.literal("task.end"), id: idSchema("tsk"), outcome: taskOutcomeSchema });
export const taskCancelFrame = z.object({ t: z.literal("task.cancel"), id: idSchema("tsk") });

export const byeFrame = z.object({
  t: z.literal("bye"),
  reconnectAfterMs: z.number().int().nonnegative(),
  reason: z.union([
    z.enum(["draining", "superseded", "stale_epoch", "refused", "bad_frame", "removed"]),
    // A newer control plane may have others: the host stays away for as long as it is told.
    z.string().max(32),
  ]),
  /** With `stale_epoch`: the epoch the control plane holds, so that a host restored from an old copy can go past it. */
  epoch: z.number().int().nonnegative().optional(),
});

export const serverFrameSchema = z.discriminatedUnion("t", [
  challengeFrame,
  welcomeFrame,
  stateFrame,
  taskFrame,
  taskCancelFrame,
  ping,
  pong,
  byeFrame,
]);
export const agentFrameSchema = z.discriminatedUnion("t", [
  helloFrame,
  ackFrame,
  observeFrame,
  taskEventFrame,
  taskEndFrame,
  ping,
  pong,
]);

export type ServerFrame = z.infer<typeof serverFrameSchema>;
export type AgentFrame = z.infer<typeof agentFrameSchema>;
export type StateFrame = z.infer<typeof stateFrame>;
export type TaskFrame = z.infer<typeof taskFrame>;
export type HelloFrame = z.infer<typeof helloFrame>;

export type ParsedFrame<F> =
  | { kind: "frame"; frame: F }
  /** Well-formed, but of a type this side does not know: ignored and counted, so that newer peers can talk to older. */
  | { kind: "unknown"; t: string }
  /** Not JSON, no `t`, too large, or a known type that fails its schema: the link is closed with this reason. */
  | { kind: "bad"; reason: string };

type FrameSchema = typeof serverFrameSchema | typeof agentFrameSchema;

function parse<S extends FrameSchema>(schema: S, text: string, maxBytes: number): ParsedFrame<z.infer<S>> {
  // A UTF-16 length above the limit is above it in bytes too; a shorter text is measured exactly.
  if (text.length > maxBytes || (text.length * 3 > maxBytes && new TextEncoder().encode(text).length > maxBytes))
    return { kind: "bad", reason: "frame too large" };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { kind: "bad", reason: "frame is not JSON" };
  }
  const t = (value as { t?: unknown } | null)?.t;
  if (typeof value !== "object" || typeof t !== "string") return { kind: "bad", reason: "frame has no type" };
  const known = schema.options.some((option) => option.shape.t.value === t);
  if (!known) return { kind: "unknown", t: t.slice(0, 32) };
  const result = schema.safeParse(value);
  if (result.success) return { kind: "frame", frame: result.data as z.infer<S> };
  const issue = result.error.issues[0];
  return { kind: "bad", reason: `${t}: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.slice(0, 120) };
}

/** Reads a frame an agent sent. Never throws. */
export function parseAgentFrame(text: string): ParsedFrame<AgentFrame> {
  return parse(agentFrameSchema, text, MAX_FRAME_UP);
}

/** Reads a frame the control plane sent. Never throws. */
export function parseServerFrame(text: string): ParsedFrame<ServerFrame> {
  return parse(serverFrameSchema, text, MAX_FRAME_DOWN);
}

/** The bytes an agent signs in `hello`: the server's nonce makes each use fresh. */
export function helloSignedBytes(hello: { nonce: string; hostId: string; epoch: number }): Uint8Array<ArrayBuffer> {
  return signedBytes("trunkline.hello.v1", { nonce: hello.nonce, hostId: hello.hostId, epoch: hello.epoch });
}
