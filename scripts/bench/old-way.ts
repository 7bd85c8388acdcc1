import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab, LabHost } from "../lab/lab.ts";
import { poll } from "../lab/poll.ts";
import { exec } from "../lab/process.ts";
import { UsageError } from "./arguments.ts";

/**
 * The way it was: the control plane opens an SSH connection to the exit, changes the peer, closes it, opens one to the forward
 * host, changes the mapping, closes it. On tunnels and tables of its own, beside the agents', so that both ways can be
 * measured in turn on the same hosts.
 */
export interface OldWay {
  /** Ports on `cp` where each host's sshd should be reached, delayed or not. */
  open(ports: { exit: number; forward: number }, change: Change): Promise<void>;
}

export interface Change {
  oldPeer: string | undefined;
  newPeer: string;
  oldPort: number | undefined;
  newPort: number;
}

const SSHD = "/usr/sbin/sshd";
const TUNNEL = "old0";
const TABLE = "oldway";

/** Throws when Debian's OpenSSH is not installed. */
export function needOpenSsh(): void {
  if (!existsSync(SSHD) || !existsSync("/usr/bin/ssh"))
    throw new UsageError(
      "push compares with OpenSSH, which is not installed: apt-get install -y --no-install-recommends openssh-server openssh-client",
    );
}

/** Starts sshd on both hosts with keys made for this run, and what it will change there. */
export async function startOldWay(lab: Lab, exit: LabHost, forward: LabHost): Promise<OldWay> {
  const dir = join(lab.cp.dir, "ssh");
  mkdirSync(dir, { mode: 0o700 });
  const clientKey = join(dir, "id_ed25519");
  await exec(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", clientKey]);
  const hostKeys = [await startSshd(lab, exit, `${clientKey}.pub`), await startSshd(lab, forward, `${clientKey}.pub`)];
  const knownHosts = join(dir, "known_hosts");
  writeFileSync(knownHosts, hostKeys.map((key) => `* ${key}\n`).join(""));

  await exit.ns.spawn(["wireguard-go", "-f", TUNNEL], { logFile: lab.logFile("old-way-wireguard") });
  await poll(() => exit.ns.exists(`/run/wireguard/${TUNNEL}.sock`), { what: "the old way's tunnel" });
  const keyFile = join(exit.dir, "old-way.key");
  writeFileSync(keyFile, (await exec(["wg", "genkey"])).stdout, { mode: 0o600 });
  await exit.ns.exec(["wg", "set", TUNNEL, "listen-port", "51999", "private-key", keyFile]);
  await forward.ns.exec(["nft", "-f", "-"], {
    input: `table ip ${TABLE} {
  map targets { type inet_service : ipv4_addr . inet_service
  }
  chain pre { type nat hook prerouting priority dstnat + 1; dnat ip to udp dport map @targets
  }
  chain post { type nat hook postrouting priority srcnat + 1; masquerade
  }
}
`,
  });

  const ssh = (port: number, command: string) =>
    lab.cp.ns.exec(
      [
        ...["ssh", "-F", "none", "-p", `${port}`, "-i", clientKey, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"],
        ...["-o", `UserKnownHostsFile=${knownHosts}`, "-o", "StrictHostKeyChecking=yes", "root@127.0.0.1", command],
      ],
      { timeoutMs: 60_000 },
    );
  const target = exit.privateAddress ?? exit.address;
  return {
    async open(ports, { oldPeer, newPeer, oldPort, newPort }) {
      const removed = oldPeer === undefined ? "" : `peer ${oldPeer} remove `;
      const onExit = `wg set ${TUNNEL} ${removed}peer ${newPeer} allowed-ips 10.13.13.2/32 && wg show ${TUNNEL} dump`;
      const { stdout } = await ssh(ports.exit, onExit);
      if (!stdout.includes(newPeer)) throw new Error("the exit did not take the peer");
      const map = `ip ${TABLE} targets`;
      const element = `nft add element ${map} "{ ${newPort} : ${target} . 51999 }"`;
      const dropped = oldPort === undefined ? "" : `nft delete element ${map} "{ ${oldPort} }" && `;
      const flush = [oldPort, newPort].flatMap((port) =>
        port === undefined ? [] : [`conntrack -D -p udp --orig-port-dst ${port} 2>&1`],
      );
      const verify = `nft list map ${map}`;
      const answer = await ssh(ports.forward, `${dropped}${element} && { ${flush.join("; ")}; ${verify}; }`);
      if (!answer.stdout.includes(`${newPort} : ${target}`))
        throw new Error("the forward host did not take the mapping");
    },
  };
}

/** Starts sshd on a host. Answers its public key. */
async function startSshd(lab: Lab, host: LabHost, authorizedKeys: string): Promise<string> {
  const dir = join(host.dir, "sshd");
  mkdirSync(dir, { mode: 0o700 });
  const key = join(dir, "host_key");
  await exec(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]);
  const authorized = join(dir, "authorized_keys");
  writeFileSync(authorized, readFileSync(authorizedKeys));
  const config = join(dir, "sshd_config");
  const settings = [
    `HostKey ${key}`,
    `AuthorizedKeysFile ${authorized}`,
    "PidFile none",
    // The lab's folders are not root's home, and there is no PAM session in a namespace; neither costs or saves time.
    "StrictModes no",
    "UsePAM no",
    "UseDNS no",
    "PermitRootLogin prohibit-password",
    "MaxStartups 100",
  ];
  writeFileSync(config, `${settings.join("\n")}\n`);
  await host.ns.exec(["mkdir", "-p", "/run/sshd"]);
  host.ns.spawn([SSHD, "-D", "-e", "-f", config], { logFile: lab.logFile(`sshd-${host.name}`) });
  await poll(async () => (await host.ns.exec(["ss", "-Hltn", "sport = :22"])).stdout !== "", {
    what: `sshd on ${host.name}`,
  });
  return readFileSync(`${key}.pub`, "utf8").split(" ").slice(0, 2).join(" ");
}
