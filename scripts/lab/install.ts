import type { Api } from "./api.ts";
import type { Container } from "./container.ts";
import type { ControlPlane } from "./control-plane.ts";
import type { ExecResult } from "./process.ts";
import { DESTINATION_REGION, FORWARD_REGION, SOURCE_REGION } from "./stage.ts";

export type InstalledHost = { id: string; container: Container; output: string };

const REGION_OF: Record<string, string> = {
  boarding: SOURCE_REGION,
  forward: FORWARD_REGION,
  exit: DESTINATION_REGION,
};

/** An enrolment token for a host of that role. */
export async function enrolmentToken(admin: Api, role: string): Promise<string> {
  return (await admin.post("/enrolment-tokens", { role, regionId: REGION_OF[role] })).token;
}

/**
 * The command an operator copies from the console, as it stands there: the one place where a shell is the point. Root
 * already, so without sudo. `env` goes before bash, `args` behind it.
 */
export function runInstaller(
  container: Container,
  cp: ControlPlane,
  env: Record<string, string> = {},
  args: readonly string[] = [],
): Promise<ExecResult> {
  const set = Object.entries(env).map(([name, value]) => `${name}=${value} `);
  const script = args.length === 0 ? "bash" : `bash -s -- ${args.join(" ")}`;
  const command = `set -o pipefail; curl -fsSL ${cp.url}/install | ${set.join("")}${script}`;
  return container.exec(["bash", "-c", command], { check: false, timeoutMs: 90_000 });
}

/** Installs the agent by the real command, and lets the host in with its addresses. Throws with what the installer said. */
export async function installHost(cp: ControlPlane, admin: Api, container: Container): Promise<InstalledHost> {
  const { host } = container;
  const token = await enrolmentToken(admin, host.kind);
  const { code, stdout, stderr } = await runInstaller(container, cp, {
    TRUNKLINE_TOKEN: token,
    TRUNKLINE_ROLE: host.kind,
  });
  const output = `${stdout}${stderr}`;
  const id = /this host is (hst_[0-9a-z]+)/.exec(output)?.[1];
  if (code !== 0 || id === undefined) throw new Error(`the installer on ${host.name} ended with ${code}: ${output}`);
  const privately = host.privateAddress && { privateAddress: host.privateAddress, privateNetwork: "udpn" };
  await admin.patch(`/hosts/${id}`, { name: host.name, publicAddress: host.address, ...privately });
  await admin.post(`/hosts/${id}/approve`);
  return { id, container, output };
}

/** What a machine holds that software can leave behind. */
export interface Footprint {
  files: string[];
  units: string[];
  processes: string[];
  interfaces: string[];
  tables: string[];
}

/** Paths that change without us: logs, caches, the package manager's own books. */
const NOT_OURS = /^\/(var\/(log|cache|tmp)|var\/lib\/(dpkg|apt|systemd)|tmp|etc\/(\.pwd\.lock|ld\.so\.cache))(\/|$)/;

/** Takes stock of a container. The files of the one package that the installer brings are not counted: they are to stay. */
export async function footprint(container: Container): Promise<Footprint> {
  const lines = async (...argv: string[]) =>
    (await container.exec(argv, { check: false })).stdout.split("\n").filter((line) => line.trim() !== "");
  const files = await lines("find", "/etc", "/opt", "/usr", "/var", "/root", "/home", "-xdev");
  const units = await lines("systemctl", "list-units", "--all", "--plain", "--no-legend", "trunkline*");
  const links = JSON.parse((await container.exec(["ip", "-j", "link"])).stdout) as { ifname: string }[];
  return {
    files: files.filter((file) => !NOT_OURS.test(file) && !file.includes("conntrack")).sort(),
    units: units.map((line) => line.split(" ")[0] ?? "").filter((unit) => !unit.endsWith(".slice")),
    processes: (await lines("ps", "-eo", "comm=")).filter((name) =>
      /^(node|MainThread|wireguard|socat|dnsmasq)/.test(name),
    ),
    interfaces: links.map((link) => link.ifname).sort(),
    tables: await lines("nft", "list", "tables"),
  };
}
