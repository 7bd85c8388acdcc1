import type { PingEvent } from "../../shared/protocol/tasks.ts";

/** A line of `ping -D -O -n` under LC_ALL=C, as far as it matters. */
export type PingLine =
  | PingEvent
  /** A router or our own kernel said why: "Destination Host Unreachable". */
  | { type: "refused"; seq: number; why: string; at: number }
  /** Ping's own closing count. */
  | { type: "sent"; count: number };

const STAMP = /^\[(\d+\.\d+)\] (.*)$/;
const REPLY = /^\d+ bytes from \S+ icmp_seq=(\d+) ttl=\d+ time=(\d+(?:\.\d+)?) ms( \(DUP!\))?/;
const NO_ANSWER = /^no answer yet for icmp_seq=(\d+)$/;
const REFUSED = /^From \S+ icmp_seq=(\d+) (.+)$/;
const SENT = /^(\d+) packets transmitted, /;

/**
 * Reads one line of ping's output; undefined when it says nothing we keep (headings, duplicates of a reply).
 * Times of day come as UTC seconds with a fraction, because of `-D`.
 */
export function parsePingLine(line: string): PingLine | undefined {
  const sent = SENT.exec(line);
  if (sent) return { type: "sent", count: Number(sent[1]) };
  const [, stamp, said] = STAMP.exec(line) ?? [];
  if (stamp === undefined || said === undefined) return undefined;
  const at = Math.round(Number(stamp) * 1000);
  const reply = REPLY.exec(said);
  if (reply) {
    return reply[3] === undefined ? { type: "reply", seq: Number(reply[1]), rttMs: Number(reply[2]), at } : undefined;
  }
  const silent = NO_ANSWER.exec(said);
  if (silent) return { type: "no_answer_yet", seq: Number(silent[1]), at };
  const refused = REFUSED.exec(said);
  if (refused) return { type: "refused", seq: Number(refused[1]), why: refused[2] ?? "", at };
  return undefined;
}
