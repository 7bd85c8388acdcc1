import type { LinkWay, RawItem, ReadItems } from "../../shared/protocol/desired-state.ts";
import type { AgentFrame, HelloFrame, HostEvent, TaskFrame } from "../../shared/protocol/frames.ts";

/** Two clocks: `mono` never jumps and measures silence; `wall` is UTC ms and is compared with what others say. */
export type Now = { mono: number; wall: number };
export type Revision = { rev: number; sha256: string };
export type AckResults = Extract<AgentFrame, { t: "ack" }>["results"];

export interface SessionSetup {
  hostId: HelloFrame["hostId"];
  version: string;
  bootId: string;
  capabilities: string[];
  /** Base URLs of the control plane, tried in turn. */
  endpoints: readonly string[];
  /** Ways through other hosts, as the last state named them. */
  ways?: readonly LinkWay[];
  /** True while a task runs: then a working link is not given up for a better one. */
  busy?(): boolean;
  controlPlaneKeyId: string;
  /** The greatest epoch ever used. */
  epoch: number;
  accepted: Revision | null;
  applied: Revision | null;
  sign(bytes: Uint8Array): string;
  verify(bytes: Uint8Array, signature: string): boolean;
  sha256(items: readonly RawItem[]): string;
  /** In [0, 1). */
  random(): number;
}

export type SessionInput =
  | { type: "start" | "opened" | "tick" | "stop" }
  | { type: "text"; text: string }
  | { type: "binary" }
  /** What came of a `probe`: a control plane answered on the direct way. */
  | { type: "probed"; ok: boolean }
  | { type: "closed"; why: string; retryAfterMs?: number | undefined }
  /** A pass over this revision ended; `allOk` when every item is applied and verified. */
  | { type: "report"; rev: number; sha256: string; results: AckResults; allOk: boolean }
  | { type: "send"; frame: AgentFrame };

export type SessionAction =
  | { type: "connect"; endpoint: string; via?: LinkWay | undefined }
  /** See whether a control plane answers there, without saying hello. */
  | { type: "probe"; endpoint: string }
  | { type: "close"; code: number; reason: string }
  | { type: "send"; frame: AgentFrame }
  /** Kept before the next action of the list is done: on disk, or in memory while the disk takes nothing. */
  | { type: "saveEpoch"; epoch: number }
  | { type: "saveApplied"; applied: Revision }
  /** Keep it on disk as it came, then bring the kernel to what was read of it. */
  | { type: "accept"; state: Revision & { items: RawItem[] }; read: ReadItems }
  /** Nothing new: look again and report. */
  | { type: "recheck" }
  | { type: "task"; task: TaskFrame }
  | { type: "cancelTask"; id: string }
  | { type: "linked" | "unlinked" }
  | { type: "event"; event: HostEvent }
  | { type: "note"; message: string };
