import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { exec, spawn } from "./process.ts";

/** Built roots, one a list of packages. They are only read: every container writes to an overlay of its own. */
export const ROOT_CACHE = "/var/cache/trunkline-lab";

/** A fresh cloud machine: systemd, and what the installer would otherwise fetch from a mirror that no lab has. */
const PACKAGES = [
  ...["systemd", "systemd-sysv", "dbus", "procps", "ca-certificates", "curl", "iproute2", "iputils-ping"],
  ...["nftables", "socat", "tcpdump", "wireguard-tools", "wireguard-go", "dnsmasq-base"],
];
/** Not installed, but its file is in apt's cache: so that the installer has something to install, without a network. */
const LEFT_TO_THE_INSTALLER = ["conntrack"];
/** Raise when this file builds something else from the same packages. */
const RECIPE = 2;

/** Where apt of this machine gets its own release from. */
interface Mirror {
  url: string;
  codename: string;
  components: string;
}

/**
 * The path of a read-only Debian (or Ubuntu) root, made by debootstrap on the first call and kept: half a minute and
 * 300 MB. Uses apt's own mirror and proxy. `say` hears of the progress.
 */
export async function containerRoot(
  say: (text: string) => void = (text) => void process.stderr.write(`${text}\n`),
): Promise<string> {
  const mirror = await findMirror();
  const recipe = JSON.stringify({ RECIPE, PACKAGES, LEFT_TO_THE_INSTALLER, codename: mirror.codename });
  const root = join(ROOT_CACHE, createHash("sha256").update(recipe).digest("hex").slice(0, 16));
  if (existsSync(root)) return root;
  mkdirSync(ROOT_CACHE, { recursive: true, mode: 0o755 });
  // Built beside its place: one that was cut off is never taken for whole, and two builders do not meet.
  const draft = `${root}.new-${randomBytes(3).toString("hex")}`;
  const log = `${draft}.log`;
  say(`building the containers' root: ${mirror.codename} from ${mirror.url}, once; log in ${log}`);
  const startedAt = performance.now();
  try {
    await debootstrap(mirror, draft, log, say);
    await leaveToTheInstaller(draft);
    writeFileSync(join(draft, "etc/hostname"), "trunkline-lab\n");
    writeFileSync(join(draft, "etc/machine-id"), "");
    rmSync(join(draft, "etc/resolv.conf"), { force: true });
    try {
      renameSync(draft, root);
    } catch (error) {
      if (!existsSync(root)) throw error; // another builder was first
    }
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  rmSync(log, { force: true });
  say(`the root stands after ${Math.round((performance.now() - startedAt) / 1000)} s: ${root}`);
  return root;
}

/** Asked of apt itself, which knows every form that its lists of sources may have. */
async function findMirror(): Promise<Mirror> {
  const format = "$(REPO_URI)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)";
  const { stdout } = await exec(["apt-get", "indextargets", "--format", format, "Created-By: Packages"]);
  const targets = stdout
    .split("\n")
    .map((line) => line.split("|"))
    // "bookworm", not "bookworm-security": the release itself.
    .filter(([, codename = "", , origin = ""]) => /^(Debian|Ubuntu)$/.test(origin) && /^[a-z]+$/.test(codename));
  const [url = "", codename = ""] = targets[0] ?? [];
  if (url === "") throw new Error("apt has no Debian or Ubuntu source (run apt-get update?): the root has no mirror");
  const components = targets.filter((t) => t[0] === url && t[1] === codename).map((t) => t[2]);
  return { url, codename, components: [...new Set(components)].join(",") };
}

async function debootstrap(mirror: Mirror, target: string, log: string, say: (text: string) => void): Promise<void> {
  const include = [...PACKAGES, ...LEFT_TO_THE_INSTALLER].join(",");
  const options = ["--variant=minbase", `--components=${mirror.components}`, `--include=${include}`];
  const child = spawn(["debootstrap", ...options, mirror.codename, target, mirror.url], {
    env: { DEBIAN_FRONTEND: "noninteractive", ...(await aptProxy()) },
  });
  let lines = 0;
  let last = "";
  const { stdout } = child;
  stdout?.setEncoding("utf8").on("data", (text: string) => {
    writeFileSync(log, text, { flag: "a" });
    for (const line of text.split("\n").filter(Boolean)) {
      last = line;
      lines++;
      if (lines % 100 === 0) say(`  ${line.slice(0, 100)}`);
    }
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    last = text.trim();
    writeFileSync(log, text, { flag: "a" });
  });
  const code = await new Promise<number | null>((resolve) => {
    child.once("error", () => resolve(127));
    child.once("close", resolve);
  });
  if (code === 127) throw new Error("debootstrap is not installed: npm run setup");
  if (code !== 0) throw new Error(`debootstrap failed (${code}): ${last}; see ${log}`);
}

/** debootstrap fetches by itself; apt's own proxy is handed on where the environment names none. */
async function aptProxy(): Promise<Record<string, string>> {
  const { stdout } = await exec(["apt-config", "shell", "proxy", "Acquire::http::Proxy"]);
  const [, proxy] = /^proxy='([^']+)'$/m.exec(stdout) ?? [];
  return proxy === undefined || process.env.http_proxy !== undefined ? {} : { http_proxy: proxy };
}

/** Takes those packages away again, and from apt's cache every file but theirs. */
async function leaveToTheInstaller(root: string): Promise<void> {
  await exec(["chroot", root, "dpkg", "--purge", ...LEFT_TO_THE_INSTALLER]);
  const archives = join(root, "var/cache/apt/archives");
  for (const file of readdirSync(archives))
    if (file.endsWith(".deb") && !LEFT_TO_THE_INSTALLER.includes(basename(file).split("_")[0] ?? ""))
      rmSync(join(archives, file));
}

if (import.meta.main) process.stdout.write(`${await containerRoot()}\n`);
