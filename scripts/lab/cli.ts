import { spawn } from "node:child_process";
import { once } from "node:events";
import { parseArgs } from "node:util";
import { createLab, type Lab, WEB_LISTED, WEB_UNLISTED } from "./lab.ts";
import { poll } from "./poll.ts";
import { startTimeOf } from "./process.ts";
import { clearDeadLabs, clearLab, listLabs } from "./registry.ts";

const HELP = `A small internet in network namespaces, to try Trunkline on one machine.

  node scripts/lab/cli.ts <command> [options]

Commands
  up            build a lab and hold it until interrupted (Ctrl-C takes it down)
  down ID|all   take a lab down; what its owner runs ends with it
  list          show labs, their owners and namespaces
  clean         clear labs whose owner was killed (every new lab does this too)

Options of up
  --clients N --boardings N --forwards N --exits N   how many of each (2, 1, 1, 1)
  --detach      come back once the lab stands; "down" ends it
  --keep        at the end, copy logs to /tmp/trunkline-lab-ID
  -h, --help    this text

Run a command on a host of a lab (its own mounts included):
  nsenter -t HOLDER -m -n -- COMMAND      ("up" prints each host's HOLDER)

Needs root. Missing packages: npm run setup
`;

const print = (text: string) => process.stdout.write(`${text}\n`);

async function up(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      clients: { type: "string", default: "2" },
      boardings: { type: "string", default: "1" },
      forwards: { type: "string", default: "1" },
      exits: { type: "string", default: "1" },
      detach: { type: "boolean", default: false },
      keep: { type: "boolean", default: false },
    },
  });
  if (values.detach) return detach(argv.filter((a) => a !== "--detach"));
  const count = (key: "clients" | "boardings" | "forwards" | "exits") => Number(values[key]);
  const lab = await createLab({
    clients: count("clients"),
    boardings: count("boardings"),
    forwards: count("forwards"),
    exits: count("exits"),
    keep: values.keep,
    purpose: "lab up",
  });
  print(describe(lab));
  const hold = setInterval(() => {}, 1 << 30);
  await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM"), once(process, "SIGHUP")]);
  clearInterval(hold);
  await lab.close();
  return 0;
}

function describe(lab: Lab): string {
  const rows = lab.hosts.map((h) =>
    [h.name.padEnd(10), h.address.padEnd(15), (h.privateAddress ?? "-").padEnd(12), `${h.ns.holderPid}`].join("  "),
  );
  return [
    `lab ${lab.id} stands; logs in ${lab.net.dir}/logs`,
    `${"host".padEnd(10)}  ${"address".padEnd(15)}  ${"private".padEnd(12)}  holder`,
    ...rows,
    `sites: http://${WEB_LISTED}/ (to be listed), http://${WEB_UNLISTED}/ (not listed)`,
  ].join("\n");
}

/** The same command in a process of its own; ends with its first words. */
async function detach(argv: string[]): Promise<number> {
  const child = spawn(process.execPath, [import.meta.filename, "up", ...argv], {
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { stdout } = child;
  if (!stdout) throw new Error("no pipe");
  let text = "";
  stdout.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  await poll(() => text.includes("sites:") || child.exitCode !== null, { what: "the lab", timeoutMs: 60_000 });
  if (child.exitCode !== null) return child.exitCode;
  process.stdout.write(text);
  print(`\nnode scripts/lab/cli.ts down ${/^lab ([0-9a-f]+)/.exec(text)?.[1] ?? "ID"}`);
  stdout.destroy();
  child.unref();
  return 0;
}

async function down(argv: string[]): Promise<number> {
  const [wanted] = argv;
  if (wanted === undefined) throw new Error("down which lab? (its id, or all; see list)");
  const labs = listLabs().filter((lab) => wanted === "all" || lab.id === wanted);
  if (labs.length === 0 && wanted !== "all") throw new Error(`no lab ${wanted}`);
  for (const { id, dir, owner, alive } of labs) {
    if (owner && alive) {
      process.kill(owner.pid, "SIGTERM");
      const gone = () => startTimeOf(owner.pid) !== owner.startTime;
      await poll(gone, { what: `the owner of lab ${id} (pid ${owner.pid}) to end` });
    }
    await clearLab(dir);
    print(`lab ${id} is down`);
  }
  return 0;
}

function list(): number {
  const labs = listLabs();
  if (labs.length === 0) print("no labs");
  for (const { id, owner, alive, namespaces } of labs) {
    const who = owner ? `pid ${owner.pid}, since ${owner.createdAt}, ${owner.purpose}` : "no owner";
    print(`${id}  ${alive ? "alive" : "dead "}  ${namespaces.length} namespaces  ${who}`);
  }
  return 0;
}

async function clean(): Promise<number> {
  const cleared = await clearDeadLabs();
  print(cleared.length === 0 ? "nothing to clear" : `cleared ${cleared.join(", ")}`);
  return 0;
}

/** Runs the command line. Resolves with the exit status. */
export async function main(argv: string[]): Promise<number> {
  const [command, ...rest] = argv;
  if (command === undefined || rest.includes("--help") || rest.includes("-h") || /^(-h|--help|help)$/.test(command)) {
    print(HELP);
    return command === undefined ? 2 : 0;
  }
  try {
    if (command === "up") return await up(rest);
    if (command === "down") return await down(rest);
    if (command === "list") return list();
    if (command === "clean") return await clean();
    throw new Error(`no command ${command}; see --help`);
  } catch (error) {
    process.stderr.write(`lab: ${error instanceof Error ? error.message : error}\n`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
