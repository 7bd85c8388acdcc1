import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** What `/proc` says of processes. A process that is gone, or not ours to look at, is `undefined` or empty. */

function read(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return undefined;
  }
}

export interface ProcStat {
  /** Ticks since boot: with the pid it names one process for good. */
  startTime: string;
  group: number;
}

/** Undefined for a process that is gone or only waits to be reaped. */
export function statOf(pid: number): ProcStat | undefined {
  const stat = read(pid, "stat");
  // The second field is the name in brackets and may hold anything, so fields are counted from the last bracket.
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (!fields || fields[0] === "Z" || fields[19] === undefined) return undefined;
  return { startTime: fields[19], group: Number(fields[2]) };
}

export function argvOf(pid: number): string[] {
  const text = read(pid, "cmdline");
  return text ? text.replace(/\0$/, "").split("\0") : [];
}

/** A variable the process was started with. Children that only forked have it too. */
export function environmentOf(pid: number, name: string): string | undefined {
  const pair = read(pid, "environ")
    ?.split("\0")
    .find((text) => text.startsWith(`${name}=`));
  return pair?.slice(name.length + 1);
}

export function childrenOf(pid: number): number[] {
  return (read(pid, `task/${pid}/children`) ?? "").split(" ").filter(Boolean).map(Number);
}

/** Bytes it read and wrote so far by read() and write(), those of children it waited for included. */
export function ioOf(pid: number): number {
  const io = read(pid, "io") ?? "";
  return ["rchar", "wchar"].reduce(
    (sum, name) => sum + Number(new RegExp(`^${name}: (\\d+)`, "m").exec(io)?.[1] ?? 0),
    0,
  );
}

export function allPids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number);
}

/**
 * Inodes of the sockets a process holds. Undefined when we may not look: a process that has capabilities we have not,
 * which the hardened unit of the agent makes of a resolver.
 */
export function socketsOf(pid: number): Set<string> | undefined {
  const inodes = new Set<string>();
  try {
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      const inode = /^socket:\[(\d+)\]$/.exec(linkOf(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode !== undefined) inodes.add(inode);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EACCES") return undefined;
  }
  return inodes;
}

/** Empty for a descriptor that was closed meanwhile. Root may list another's descriptors, and yet not look at one: EACCES. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EACCES") throw error;
    return "";
  }
}

/** Reads `/proc/net/udp`: port and inode of each socket that takes packets from anyone, not from one peer only. */
export function parseUdpListeners(text: string): { port: number; inode: string }[] {
  return text.split("\n").flatMap((line) => {
    const f = line.trim().split(/\s+/);
    if (f[2] !== "00000000:0000") return [];
    return [{ port: Number.parseInt(f[1]?.split(":")[1] ?? "", 16), inode: f[9] ?? "" }];
  });
}

/**
 * True when the process has a UDP socket of its network namespace that takes packets for this port from anyone; where
 * we may not look into it, when anyone has.
 */
export function listensOnUdp(pid: number, port: number): boolean {
  const own = socketsOf(pid);
  return parseUdpListeners(read(pid, "net/udp") ?? "").some((s) => s.port === port && (own?.has(s.inode) ?? true));
}
