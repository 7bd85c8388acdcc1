import { type PcapHeader, type PcapPacket, readPcap, viewOf } from "./pcap.ts";

/**
 * Writes pcapng, the format of finished captures: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html
 * One section, one interface block a point, times in nanoseconds, little-endian, counters at the end.
 */

/** A block's type, as the format numbers them. */
export const BLOCK = { section: 0x0a0d0d0a, interface: 1, statistics: 5, packet: 6 } as const;
/** An option's code. 1 is a comment in every block. */
export const OPTION = {
  comment: 1,
  sectionApplication: 4,
  ifName: 2,
  ifDescription: 3,
  ifTsResolution: 9,
  ifFilter: 11,
  statsReceived: 4,
  statsDropped: 5,
  statsAccepted: 6,
  statsOsDropped: 7,
} as const;

/** The point packets were captured at. */
export interface PcapngInterface {
  name: string;
  description: string;
  /** As the operator wrote it; empty for none. */
  filter: string;
}

export interface PcapngStats {
  /** Packets that passed the filter, those dropped later included. */
  received: number;
  /** Of those, packets the kernel dropped because its buffer was full. */
  dropped: number;
}

export interface PcapngMeta {
  captureId: string;
  comment?: string;
  /** The host's clock less the control plane's. Noted in the file; times stay as the host saw them. */
  clockOffsetNs: bigint | number;
  interface: PcapngInterface;
  /** Counters, or a function asked once at the end of the stream; undefined leaves the block out. */
  stats: PcapngStats | (() => PcapngStats | undefined | Promise<PcapngStats | undefined>);
}

/** Bytes gathered before they are handed on: a packet at a time would cost more in awaits than in work. */
const BATCH = 64 * 1024;

/**
 * Turns one point's pcap into pcapng as it streams by; memory is bounded by a packet and a batch.
 *
 * @throws TypeError when the source is not pcap
 */
export async function* pcapToPcapng(source: AsyncIterable<Uint8Array>, meta: PcapngMeta): AsyncGenerator<Uint8Array> {
  const { header, packets } = await readPcap(source);
  let batch: Uint8Array[] = [sectionBlock(meta), interfaceBlock(header, meta)];
  let size = 0;
  let last = 0n;
  // The head goes out at once, so that a live viewer shows the capture before its first packet.
  yield join(batch);
  batch = [];
  for await (const packet of packets) {
    const block = packetBlock(0, packet);
    batch.push(block);
    size += block.length;
    last = packet.timestampNs;
    if (size >= BATCH) {
      yield join(batch);
      batch = [];
      size = 0;
    }
  }
  const stats = typeof meta.stats === "function" ? await meta.stats() : meta.stats;
  if (stats) batch.push(statisticsBlock(0, last, stats));
  if (batch.length > 0) yield join(batch);
}

/** The section header, which says whose capture this is. */
export function sectionBlock(meta: Pick<PcapngMeta, "captureId" | "comment">): Uint8Array {
  const head = new Uint8Array(16);
  const view = viewOf(head);
  view.setUint32(0, 0x1a2b3c4d, true);
  view.setUint16(4, 1, true); // version 1.0
  view.setBigInt64(8, -1n, true); // length unknown: this is a stream
  return block(BLOCK.section, head, [
    textOption(OPTION.comment, `capture ${meta.captureId}`),
    ...(meta.comment ? [textOption(OPTION.comment, meta.comment)] : []),
    textOption(OPTION.sectionApplication, "Trunkline"),
  ]);
}

/** One point: its name, what it is, the filter, how far its clock was off, and whether the times take that into account. */
export function interfaceBlock(
  header: PcapHeader,
  meta: Pick<PcapngMeta, "captureId" | "clockOffsetNs" | "interface">,
  corrected = false,
): Uint8Array {
  const head = new Uint8Array(8);
  const view = viewOf(head);
  view.setUint16(0, header.linkType, true);
  view.setUint32(4, header.snapLength, true);
  const { name, description, filter } = meta.interface;
  const how = corrected ? "taken off all times" : "not taken off";
  const comment = `capture ${meta.captureId}, clock offset ${meta.clockOffsetNs} ns, ${how}`;
  return block(BLOCK.interface, head, [
    textOption(OPTION.ifName, name),
    textOption(OPTION.ifDescription, description),
    // The first byte 0 says that a filter's text follows, not its byte code.
    ...(filter === "" ? [] : [option(OPTION.ifFilter, utf8(`\0${filter}`))]),
    option(OPTION.ifTsResolution, Uint8Array.of(9)),
    textOption(OPTION.comment, comment),
  ]);
}

/** One packet of the interface with this number (in the order of the interface blocks, from 0). */
export function packetBlock(iface: number, packet: PcapPacket): Uint8Array {
  const { data } = packet;
  const total = 32 + padded(data.length);
  const out = new Uint8Array(total);
  const view = viewOf(out);
  view.setUint32(0, BLOCK.packet, true);
  view.setUint32(4, total, true);
  view.setUint32(8, iface, true);
  setTime(view, 12, packet.timestampNs);
  view.setUint32(20, data.length, true);
  view.setUint32(24, packet.originalLength, true);
  out.set(data, 28);
  view.setUint32(total - 4, total, true);
  return out;
}

/** An interface's counters at a time. `isb_ifdrop` is 0: what the interface itself loses, no one here can count. */
export function statisticsBlock(iface: number, timestampNs: bigint, stats: PcapngStats): Uint8Array {
  const head = new Uint8Array(12);
  const view = viewOf(head);
  view.setUint32(0, iface, true);
  setTime(view, 4, timestampNs);
  return block(BLOCK.statistics, head, [
    countOption(OPTION.statsReceived, stats.received),
    countOption(OPTION.statsDropped, 0),
    countOption(OPTION.statsAccepted, stats.received),
    countOption(OPTION.statsOsDropped, stats.dropped),
  ]);
}

/** A time is two 32-bit halves, the upper first, whatever the byte order. */
function setTime(view: DataView, at: number, ns: bigint): void {
  view.setUint32(at, Number(ns >> 32n), true);
  view.setUint32(at + 4, Number(ns & 0xffff_ffffn), true);
}

function block(type: number, head: Uint8Array, options: readonly Uint8Array[]): Uint8Array {
  const end = new Uint8Array(4); // opt_endofopt
  const body = join([head, ...options, end]);
  const out = new Uint8Array(body.length + 12);
  const view = viewOf(out);
  view.setUint32(0, type, true);
  view.setUint32(4, out.length, true);
  out.set(body, 8);
  view.setUint32(out.length - 4, out.length, true);
  return out;
}

function option(code: number, value: Uint8Array): Uint8Array {
  const out = new Uint8Array(4 + padded(value.length));
  const view = viewOf(out);
  view.setUint16(0, code, true);
  view.setUint16(2, value.length, true);
  out.set(value, 4);
  return out;
}

/** Options are cut to 4 kB: a reason of any length must not make a file that readers refuse. */
function textOption(code: number, text: string): Uint8Array {
  return option(code, utf8(text.slice(0, 1024)));
}

function countOption(code: number, count: number): Uint8Array {
  const value = new Uint8Array(8);
  viewOf(value).setBigUint64(0, BigInt(count), true);
  return option(code, value);
}

const utf8 = (text: string) => new TextEncoder().encode(text);
const padded = (length: number) => (length + 3) & ~3;

/** The pieces as one. */
export function join(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
