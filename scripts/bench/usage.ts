import { readFileSync } from "node:fs";

/** The kernel's clock for process times, ticks a second; 100 on every Linux that node runs on. */
const TICKS = 100;
const PAGE = 4096;

/** Resident memory of a process, bytes. Throws when it is gone. */
export function residentBytes(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * PAGE;
}

/** CPU time a process has used, seconds: its own, and with that of the children it has waited for. */
export function cpuSeconds(pid: number): { own: number; withChildren: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The second field is the name in brackets and may hold anything, so fields are counted from the last bracket.
  const fields = stat
    .slice(stat.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  const [user = 0, system = 0, childUser = 0, childSystem = 0] = fields.slice(11, 15);
  return { own: (user + system) / TICKS, withChildren: (user + system + childUser + childSystem) / TICKS };
}
