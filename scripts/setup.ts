import { spawnSync } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { join } from "node:path";

const HELP = `Installs the Debian packages that the lab and the demo need, only those that are missing.

  npm run setup                install what is missing (root)
  npm run setup -- --check     only report; exits 1 and shows the command when something is missing
`;

/** What the lab runs, and the package that brings it. */
export const NEEDED: readonly { program: string; package: string }[] = [
  { program: "wg", package: "wireguard-tools" },
  { program: "wireguard-go", package: "wireguard-go" },
  { program: "socat", package: "socat" },
  { program: "tcpdump", package: "tcpdump" },
  { program: "conntrack", package: "conntrack" },
  { program: "nft", package: "nftables" },
  { program: "dnsmasq", package: "dnsmasq-base" },
  { program: "ping", package: "iputils-ping" },
  { program: "ip", package: "iproute2" },
  { program: "iperf3", package: "iperf3" },
  { program: "curl", package: "curl" },
  { program: "ps", package: "procps" },
  { program: "debootstrap", package: "debootstrap" },
  { program: "systemd-nspawn", package: "systemd-container" },
  { program: "redis-server", package: "redis-server" },
];

/** Packages whose program is on none of these folders. */
export function missingPackages(folders: readonly string[]): string[] {
  const runnable = (path: string) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  };
  return NEEDED.filter(({ program }) => !folders.some((dir) => runnable(join(dir, program)))).map((n) => n.package);
}

const say = (text: string) => process.stdout.write(`${text}\n`);
const complain = (text: string) => process.stderr.write(`setup: ${text}\n`);

function isDebian(): boolean {
  try {
    return /^(ID|ID_LIKE)=.*\b(debian|ubuntu)\b/m.test(readFileSync("/etc/os-release", "utf8"));
  } catch {
    return false;
  }
}

/** Runs apt-get with its output shown. */
function apt(...args: string[]): boolean {
  say(`> apt-get ${args.join(" ")}`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  return spawnSync("apt-get", args, { stdio: "inherit", env }).status === 0;
}

/** Runs the command line. Hands back the exit status. */
export function main(argv: readonly string[]): number {
  if (argv.includes("--help") || argv.includes("-h")) {
    say(HELP);
    return 0;
  }
  const unknown = argv.find((a) => a !== "--check");
  if (unknown !== undefined) {
    complain(`no option ${unknown}; see --help`);
    return 2;
  }
  // Root's tools may be missing from a plain user's PATH.
  const folders = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
  const missing = missingPackages(folders);
  const command = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  const root = process.getuid?.() === 0;
  const rootHint = "the lab and the demo make network namespaces: run them as root (sudo npm run …)";
  if (missing.length === 0) {
    say("Everything the lab needs is installed.");
    if (!root) say(`Note: ${rootHint}.`);
    return 0;
  }
  say(`Missing: ${missing.join(", ")}`);
  if (!isDebian()) {
    complain("this is not Debian or Ubuntu; install the programs of these packages with your own package manager");
    return 1;
  }
  if (argv.includes("--check")) {
    complain(`install them with: ${root ? "" : "sudo "}${command}`);
    return 1;
  }
  if (!root) {
    complain(`installing needs root; run: sudo ${command}`);
    return 1;
  }
  if (!apt("update") || !apt("install", "-y", "--no-install-recommends", ...missing)) {
    complain(`apt-get failed; run it by hand and look at its output: ${command}`);
    return 1;
  }
  const left = missingPackages(folders);
  if (left.length > 0) complain(`still missing after installing: ${left.join(", ")}`);
  else say("Done.");
  return left.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main(process.argv.slice(2));
