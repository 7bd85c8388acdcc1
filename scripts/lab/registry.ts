import { randomBytes } from "node:crypto";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { exec, killAll, startTimeOf } from "./process.ts";

/**
 * Who owns which lab. Each lab is a folder under {@link REGISTRY} naming its owner's process and, one a line and
 * before it is made, everything that outlives a killed owner: namespaces, processes, mounts, control groups. So whoever comes next can
 * clear a dead owner's lab and leave living ones alone.
 */
export const REGISTRY = "/run/trunkline-lab";

export interface LabOwner {
  pid: number;
  startTime: string;
  /** A registry on disk survives a reboot; pids and start times do not. */
  bootId: string;
  purpose: string;
  createdAt: string;
}

export interface LabEntry {
  id: string;
  dir: string;
  owner: LabOwner | undefined;
  alive: boolean;
  namespaces: string[];
}

const bootId = () => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
const lines = (file: string) => (existsSync(file) ? readFileSync(file, "utf8").split("\n").filter(Boolean) : []);

/** Makes a new lab's folder. The owner's file is in it before it gets its name, so no one takes it for an orphan. */
export function register(purpose: string): { id: string; dir: string } {
  mkdirSync(REGISTRY, { recursive: true, mode: 0o755 });
  const id = randomBytes(3).toString("hex");
  const draft = join(REGISTRY, `.new-${id}`);
  mkdirSync(draft, { mode: 0o755 });
  const startTime = startTimeOf(process.pid);
  if (startTime === undefined) throw new Error("the lab needs /proc");
  const owner: LabOwner = {
    pid: process.pid,
    startTime,
    bootId: bootId(),
    purpose,
    createdAt: new Date().toISOString(),
  };
  writeFileSync(join(draft, "owner.json"), JSON.stringify(owner));
  const dir = join(REGISTRY, id);
  renameSync(draft, dir);
  return { id, dir };
}

export function noteNamespace(dir: string, name: string): void {
  appendFileSync(join(dir, "namespaces"), `${name}\n`);
}

/** Notes a process that runs outside the lab's namespaces (those inside are found through them). */
export function noteProcess(dir: string, pid: number): void {
  const startTime = startTimeOf(pid);
  if (startTime !== undefined) appendFileSync(join(dir, "processes"), `${pid} ${startTime}\n`);
}

/** Notes a mount outside the lab's namespaces. */
export function noteMount(dir: string, path: string): void {
  appendFileSync(join(dir, "mounts"), `${path}\n`);
}

/** Notes a control group (its folder), which is deleted once its processes are gone. */
export function noteCgroup(dir: string, path: string): void {
  appendFileSync(join(dir, "cgroups"), `${path}\n`);
}

/** All labs on this machine, dead and alive. */
export function listLabs(): LabEntry[] {
  if (!existsSync(REGISTRY)) return [];
  const boot = bootId();
  return readdirSync(REGISTRY)
    .filter((name) => !name.startsWith("."))
    .map((id) => {
      const dir = join(REGISTRY, id);
      const owner = readOwner(dir);
      const alive = owner !== undefined && owner.bootId === boot && startTimeOf(owner.pid) === owner.startTime;
      return { id, dir, owner, alive, namespaces: [...new Set(lines(join(dir, "namespaces")))] };
    });
}

function readOwner(dir: string): LabOwner | undefined {
  try {
    return JSON.parse(readFileSync(join(dir, "owner.json"), "utf8")) as LabOwner;
  } catch {
    return undefined;
  }
}

/** Clears every lab whose owner is gone, and hands back their ids. Several may do this at once. */
export async function clearDeadLabs(): Promise<string[]> {
  const dead = listLabs().filter((lab) => !lab.alive);
  await Promise.all(dead.map((lab) => clearLab(lab.dir)));
  clearStaleDrafts();
  return dead.map((lab) => lab.id);
}

/** Ends a lab's processes, deletes its namespaces (their interfaces go with them) and its folder. */
export async function clearLab(dir: string): Promise<void> {
  const outside = lines(join(dir, "processes")).map((line) => {
    const [pid, startTime = ""] = line.split(" ");
    return { pid: Number(pid), startTime };
  });
  await killAll(outside);
  const namespaces = [...new Set(lines(join(dir, "namespaces")))];
  await Promise.all(namespaces.map(deleteNamespace));
  // Before the folder goes: deleting through a mount would reach what is mounted.
  for (const path of lines(join(dir, "mounts")).reverse()) await unmount(path);
  for (const path of lines(join(dir, "cgroups"))) removeCgroup(path);
  rmSync(dir, { recursive: true, force: true });
}

/** Unmounts. Not an error when nothing is mounted there. */
export async function unmount(path: string): Promise<void> {
  await exec(["umount", "--recursive", path], { check: false });
  const mounted = readFileSync("/proc/self/mounts", "utf8").split("\n");
  // Something of a killed container may still hold it for a moment: it goes when that does.
  if (mounted.some((line) => line.split(" ")[1] === path)) await exec(["umount", "--lazy", path]);
}

/** Deletes a control group and those below it. Its files can't be unlinked; only the folders count. */
function removeCgroup(path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeCgroup(join(path, entry.name));
  try {
    rmdirSync(path);
  } catch {
    // A process in it is still ending. An empty group costs nothing.
  }
}

/** Kills what runs in a namespace and deletes it. Not an error when there is none. */
export async function deleteNamespace(name: string): Promise<void> {
  if (!existsSync(join("/run/netns", name))) return;
  // A process may fork while the list is read: look again until it is empty.
  for (let round = 0; round < 20; round++) {
    const { stdout } = await exec(["ip", "netns", "pids", name], { check: false });
    const victims = stdout
      .split("\n")
      .filter(Boolean)
      .flatMap((pid) => {
        const startTime = startTimeOf(Number(pid));
        return startTime === undefined ? [] : [{ pid: Number(pid), startTime }];
      });
    if (victims.length === 0) break;
    await killAll(victims);
  }
  const { code, stderr } = await exec(["ip", "netns", "delete", name], { check: false });
  if (code !== 0 && existsSync(join("/run/netns", name))) throw new Error(`can't delete namespace ${name}: ${stderr}`);
}

/** A draft is renamed within milliseconds; one a minute old was left by a process killed in between, and holds nothing. */
function clearStaleDrafts(): void {
  if (!existsSync(REGISTRY)) return;
  for (const name of readdirSync(REGISTRY)) {
    const path = join(REGISTRY, name);
    try {
      if (name.startsWith(".new-") && Date.now() - statSync(path).mtimeMs > 60_000) rmSync(path, { recursive: true });
    } catch {
      // another lab cleared it first
    }
  }
}
