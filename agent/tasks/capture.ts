import { lookup } from "node:dns/promises";
import type { CaptureParams, CaptureResult } from "../../shared/protocol/tasks.ts";
import { checkFilter, fullFilter } from "./capture-filter.ts";
import { PcapGate } from "./pcap-gate.ts";
import { openPsk } from "./sealed-keys.ts";
import { parseCounts, Tcpdump } from "./tcpdump.ts";
import { type TaskContext, TaskError, type TaskRunner } from "./types.ts";
import { UplinkClient } from "./uplink-client.ts";

/** After a limit, how long the uplink may take for what is on its way. */
const FLUSH_MS = 20_000;
/** The same after a cancellation, which is answered for within five seconds whether or not the task has ended. */
const FLUSH_CANCELLED_MS = 4000;
const PROGRESS_MS = 1000;

/** What a capture emits while it runs. */
export type CaptureEvent =
  | { type: "started"; at: number; interface: string }
  | { type: "progress"; at: number; bytes: number; packets: number };

/** One at a time on a host: a second one would share the kernel's buffers and the uplink's path. */
let running: string | undefined;

/**
 * Captures on one of this host's interfaces and streams pcap to another host's uplink, by the private network only. Ends
 * at the first limit: seconds, bytes, packets, or the task's cancellation ("stopped"), which is a result and not an error.
 *
 * Errors: `capture_busy`, `bad_filter`, `no_interface`, `bad_sealed`, `no_private_path`, `uplink_failed`, `capture_failed`.
 */
export const runCapture: TaskRunner<CaptureParams> = async (params, ctx) => {
  if (running !== undefined) throw new TaskError("capture_busy", `this host is capturing for ${running}`);
  running = params.captureId;
  try {
    return await capture(params, ctx);
  } finally {
    running = undefined;
  }
};

async function capture(params: CaptureParams, ctx: TaskContext): Promise<CaptureResult> {
  await checkFilter(params.filter, params.point === "tunnel" ? "RAW" : "EN10MB");
  const iface = await interfaceOf(params.point, ctx);
  const { psk } = openPsk(params.sealed, ctx);
  const uplink = await UplinkClient.connect({ ...params.uplink, ticket: params.ticket, psk }, ctx.signal);
  try {
    const exclude = [...params.exclude, ...(await controlPlaneOf(ctx))];
    const filter = fullFilter({ ...params, exclude });
    const tcpdump = new Tcpdump({ interface: iface, snapLength: params.snapLength, filter });
    try {
      return await stream(params, ctx, iface, tcpdump, uplink);
    } finally {
      tcpdump.kill();
      tcpdump.output.destroy();
    }
  } finally {
    uplink.destroy();
  }
}

async function stream(
  params: CaptureParams,
  ctx: TaskContext,
  iface: string,
  tcpdump: Tcpdump,
  uplink: UplinkClient,
): Promise<CaptureResult> {
  await tcpdump.listening.catch((error: Error) => {
    throw new TaskError("capture_failed", error.message);
  });
  const startedAt = ctx.now();
  const gate = new PcapGate(params);
  const emit = (event: CaptureEvent) => ctx.emit(event);
  emit({ type: "started", at: startedAt, interface: iface });

  let reason: CaptureResult["stopReason"] | undefined;
  let endedAt = startedAt;
  let flush: NodeJS.Timeout | undefined;
  const stop = (why: CaptureResult["stopReason"]) => {
    if (reason) return;
    reason = why;
    endedAt = ctx.now();
    tcpdump.stop();
    // A stalled uplink would otherwise hold the capture, and the host's only place for one, for ever.
    flush = setTimeout(() => uplink.destroy(), FLUSH_MS);
  };
  const stopped = () => {
    stop("stopped");
    clearTimeout(flush);
    flush = setTimeout(() => uplink.destroy(), FLUSH_CANCELLED_MS);
  };
  const timer = setTimeout(() => stop("seconds"), params.seconds * 1000);
  const progress = setInterval(
    () => emit({ type: "progress", at: ctx.now(), bytes: gate.bytes, packets: gate.packets }),
    PROGRESS_MS,
  );
  ctx.signal.addEventListener("abort", stopped, { once: true });
  if (ctx.signal.aborted) stopped();
  // Without packets nothing is written, and a broken uplink would not be noticed until the end.
  uplink.closed.then(() => tcpdump.kill());

  try {
    // Reading only as fast as the uplink takes: tcpdump then waits, and what the kernel drops meanwhile is counted.
    for await (const piece of tcpdump.output) {
      const passed = gate.feed(piece as Buffer);
      if (passed.length > 0) await uplink.send(passed);
      if (gate.closedBy) stop(gate.closedBy);
    }
    const counts = parseCounts(await tcpdump.ended);
    await uplink.finish();
    if (!reason)
      throw new TaskError("capture_failed", `tcpdump ended by itself: ${(await tcpdump.ended).trim().slice(-300)}`);
    return {
      stopReason: reason,
      bytes: gate.bytes,
      packets: gate.packets,
      receivedByFilter: counts?.receivedByFilter ?? 0,
      droppedByKernel: counts?.droppedByKernel ?? 0,
      interface: iface,
      startedAt,
      endedAt,
    };
  } finally {
    clearTimeout(timer);
    clearTimeout(flush);
    clearInterval(progress);
    ctx.signal.removeEventListener("abort", stopped);
  }
}

/** The far end of this agent's own link: the capture's events would otherwise be in the capture. */
async function controlPlaneOf(ctx: TaskContext): Promise<{ address: string; port: number }[]> {
  const { url, via } = ctx.way();
  const { hostname, port, protocol } = new URL(url);
  if (via !== undefined) return [{ address: via.address, port: via.port }];
  const found = await lookup(hostname, { all: true, family: 4 }).catch(() => []);
  const number = port === "" ? (protocol === "http:" ? 80 : 443) : Number(port);
  return found.slice(0, 8).map(({ address }) => ({ address, port: number }));
}

async function interfaceOf(point: CaptureParams["point"], ctx: TaskContext): Promise<string> {
  if (point === "outside") {
    return ctx.hostInfo.outsideInterface().catch((error: Error) => {
      throw new TaskError("no_interface", error.message);
    });
  }
  const tunnel = ctx.hostInfo.tunnelInterface();
  if (tunnel === undefined) throw new TaskError("no_interface", "this host has no tunnel");
  return tunnel;
}
