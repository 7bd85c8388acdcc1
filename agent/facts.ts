import { existsSync, readFileSync } from "node:fs";
import { arch, hostname, networkInterfaces, release } from "node:os";
import { delimiter, join } from "node:path";
import type { HostFacts } from "../shared/protocol/enrolment.ts";
import { interfaceSchema } from "../shared/protocol/values.ts";

declare const TRUNKLINE_VERSION: string | undefined;

/** Set by the build; an agent run from its sources says package.json's, which a test compares. */
export const VERSION = typeof TRUNKLINE_VERSION === "string" ? TRUNKLINE_VERSION : "0.1.0";

/** What this host can do, by which programs it has. */
export function findCapabilities(path = process.env.PATH ?? ""): string[] {
  const folders = [...path.split(delimiter), "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
  const has = (program: string) => folders.some((folder) => folder !== "" && existsSync(join(folder, program)));
  const found = ["nft", "socat", "wireguard-go", "conntrack", "tcpdump", "dnsmasq"].filter(has);
  if (existsSync("/sys/module/wireguard")) found.push("wireguard-kernel");
  if (existsSync("/run/systemd/system")) found.push("systemd");
  return found;
}

/** What the host says of itself when it enrols. */
export function gatherFacts(): HostFacts {
  const addresses = Object.entries(networkInterfaces()).flatMap(([name, list]) =>
    (list ?? [])
      .filter((a) => a.family === "IPv4" && !a.internal && interfaceSchema.safeParse(name).success)
      .map((a) => ({ interface: name, address: a.address })),
  );
  return {
    hostname: hostname().slice(0, 255),
    os: osName().slice(0, 255),
    kernel: release().slice(0, 255),
    arch: arch(),
    capabilities: findCapabilities(),
    addresses: addresses.slice(0, 64),
  };
}

function osName(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "Linux";
  } catch {
    return "Linux";
  }
}

/** The kernel's id of this boot; another one means that the kernel's state is gone. */
export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim().slice(0, 64);
  } catch {
    return "unknown";
  }
}
