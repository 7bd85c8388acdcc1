import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { Container } from "./container.ts";
import { createLab, type Lab, type LabHost } from "./lab.ts";
import { poll } from "./poll.ts";
import { startTimeOf } from "./process.ts";
import { clearDeadLabs, REGISTRY } from "./registry.ts";

let lab: Lab | undefined;
afterEach(() => lab?.close());

const mounts = () => readFileSync("/proc/self/mounts", "utf8");
const groups = (id: string, name: string) =>
  ["systemd", "unified", "."].map((at) => `/sys/fs/cgroup/${at}/trunkline-lab-${id}-${name}`).filter(existsSync);

test("a container is a machine of its own: systemd, disk, sysctls, the host's addresses; a reboot keeps only the disk", async () => {
  lab = await createLab({ clients: 0, boardings: 0, forwards: 0, exits: 1, purpose: "container test" });
  const host = lab.exits[0] as LabHost;
  const machine = await Container.create(lab, host);
  const out = async (...argv: string[]) => (await machine.exec(argv)).stdout.trim();
  expect(await out("systemctl", "is-system-running")).toBe("running");
  expect(await out("ip", "-br", "-4", "addr", "show", "eth0")).toContain(host.address);
  await machine.exec(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
  await machine.exec(["nft", "add", "table", "ip", "mine"]);
  await machine.exec(["touch", "/root/mine"]);
  const boot = await out("cat", "/proc/sys/kernel/random/boot_id");
  await machine.reboot();
  expect(await out("cat", "/proc/sys/kernel/random/boot_id")).not.toBe(boot);
  expect(await out("nft", "list", "tables")).toBe("");
  expect(await out("sysctl", "-n", "net.ipv4.ip_forward")).toBe("0");
  expect(await out("ls", "/root/mine")).toBe("/root/mine");
  expect(await out("ip", "-br", "-4", "addr", "show", "eth0")).toContain(host.address);
});

test("of a lab whose owner was killed (-9) no container, mount or control group stays", async () => {
  const code = `
    const { createLab } = await import("./scripts/lab/lab.ts");
    const { Container } = await import("./scripts/lab/container.ts");
    const lab = await createLab({ clients: 0, boardings: 0, forwards: 0, exits: 1, purpose: "to be killed" });
    const machine = await Container.create(lab, lab.exits[0]);
    console.log(JSON.stringify({ id: lab.id, pid: machine.pid }));
    setInterval(() => {}, 1e9);`;
  const argv = ["--input-type=module", "-e", code];
  const owner = spawn(process.execPath, argv, {
    cwd: join(import.meta.dirname, "../.."),
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  owner.stdout.on("data", (chunk: Buffer) => {
    said += chunk;
  });
  await poll(() => said.includes("\n"), { what: "the lab to stand", timeoutMs: 120_000 });
  const { id, pid } = JSON.parse(said) as { id: string; pid: number };
  expect(mounts()).toContain(`${REGISTRY}/${id}/containers`);
  expect(groups(id, "exit1").length).toBeGreaterThan(0);
  owner.kill("SIGKILL");
  await poll(() => owner.signalCode !== null, { what: "the owner to end" });
  expect(startTimeOf(pid)).toBeDefined();
  expect(await clearDeadLabs()).toContain(id);
  expect(startTimeOf(pid)).toBeUndefined();
  expect(mounts()).not.toContain(id);
  await poll(() => groups(id, "exit1").length === 0, { what: "its control groups to go" });
  expect(existsSync(join(REGISTRY, id))).toBe(false);
});
