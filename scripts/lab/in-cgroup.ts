import { writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * node scripts/lab/in-cgroup.ts FOLDER... -- PROGRAM ARG...
 *
 * Joins these control groups and becomes that program. systemd-nspawn makes its container's groups below its own, by fixed
 * names: two that share a group would share their containers' groups, and each systemd would kill the other's services.
 */
const split = process.argv.indexOf("--");
const [program = "", ...args] = process.argv.slice(split + 1);
for (const folder of process.argv.slice(2, split)) writeFileSync(join(folder, "cgroup.procs"), "0");
if (process.execve === undefined) throw new Error("this Node has no process.execve: run the lab on the pinned one");
process.execve(program, [program, ...args], process.env);
