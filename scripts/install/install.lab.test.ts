import { createHash } from "node:crypto";
import { appendFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UpgradeFiles } from "../../agent/upgrade/files.ts";
import { buildAgent } from "../build-agent.ts";
import type { Api } from "../lab/api.ts";
import { Container } from "../lab/container.ts";
import { testReleaseKey } from "../lab/container-world.ts";
import { type ControlPlane, startControlPlane } from "../lab/control-plane.ts";
import { enrolmentToken, footprint, runInstaller } from "../lab/install.ts";
import { createLab, type Lab, type LabHost } from "../lab/lab.ts";
import { putCatalogue, signInAsAdmin } from "../lab/stage.ts";

const UNIT = "trunkline-agent.service";
const BUNDLE = "/opt/trunkline/current/agent.mjs";

let lab: Lab;
let cp: ControlPlane;
let admin: Api;
let machine: Container;
let releases: string;

beforeAll(async () => {
  lab = await createLab({ clients: 0, boardings: 0, forwards: 0, exits: 1, purpose: "installer test" });
  await lab.explain(async () => {
    releases = join(lab.cp.dir, "releases");
    await buildAgent({ out: releases, key: testReleaseKey(lab) });
    const env = { HOST: "0.0.0.0", DATA_DIR: join(lab.cp.dir, "data"), RELEASES_DIR: releases };
    cp = await startControlPlane(lab, { env: { ...env, PUBLIC_URL: `http://${lab.cp.address}:8787` } });
    admin = await signInAsAdmin(lab, cp);
    await putCatalogue(admin);
    machine = await Container.create(lab, lab.exits[0] as LabHost);
  });
});
afterAll(() => lab?.close());

const install = (env: Record<string, string> = {}, args: string[] = []) => runInstaller(machine, cp, env, args);
const check = (name: string, body: () => Promise<void>) => test(name, () => lab.explain(body));
const sha256 = async (path: string) => (await machine.exec(["sha256sum", path])).stdout.split(" ")[0];
const hostsKnown = async () => (await admin.get("/hosts")).items.length;

check("a download that was cut off anywhere does nothing", async () => {
  const before = await footprint(machine);
  const script = await (await fetch(`${cp.localUrl}/install`)).text();
  expect(script.endsWith('\nmain "$@"\n')).toBe(true);
  for (const part of [0.1, 0.5, 0.9, 0.999])
    await machine.exec(["bash"], { input: script.slice(0, Math.floor(script.length * part)), check: false });
  expect(await footprint(machine)).toEqual(before);
});

check("it says what is wrong, and leaves no host behind", async () => {
  const unprivileged = "curl -fsSL $0/install | setpriv --reuid=65534 --clear-groups bash";
  const asNobody = await machine.exec(["bash", "-c", unprivileged, cp.url], { check: false });
  expect([asNobody.code, asNobody.stderr]).toEqual([1, "trunkline: this needs root: put sudo before bash\n"]);
  const option = await install({}, ["--remove"]);
  expect([option.code, option.stderr]).toEqual([1, "trunkline: unknown option --remove (there is only --uninstall)\n"]);

  const none = await install();
  expect([none.code, none.stderr]).toEqual([1, expect.stringContaining("no enrolment token")]);
  const roleless = await install({ TRUNKLINE_TOKEN: "tl_enr_x" });
  expect([roleless.code, roleless.stderr]).toEqual([1, expect.stringContaining("no role")]);
  const wrong = await install({ TRUNKLINE_TOKEN: `tl_enr_${"x".repeat(43)}`, TRUNKLINE_ROLE: "exit" });
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("Ask for a new enrolment token")]);
  const otherRole = await enrolmentToken(admin, "forward");
  expect((await install({ TRUNKLINE_TOKEN: otherRole, TRUNKLINE_ROLE: "exit" })).code).toBe(1);
  expect(await hostsKnown()).toBe(0);
  expect(await machine.show(UNIT, "ActiveState")).toBe("inactive");
});

let token: string;

check("one command makes a machine a host: packages, runtime, units, enrolment, running when it ends", async () => {
  expect((await machine.exec(["apt-get", "-y", "purge", "conntrack"])).code).toBe(0);
  await machine.exec(["rm", "-rf", "/opt/trunkline"]);
  token = await enrolmentToken(admin, "exit");
  const startedAt = performance.now();
  const { code, stdout, stderr } = await install({ TRUNKLINE_TOKEN: token, TRUNKLINE_ROLE: "exit" });
  expect([code, stderr]).toEqual([0, ""]);
  process.stdout.write(`installed in ${Math.round(performance.now() - startedAt)} ms\n${stdout}`);
  expect(stdout).toContain("installing packages: conntrack");
  expect(stdout).toMatch(/ready: link linked/);
  expect(await machine.show(UNIT, "ActiveState")).toBe("active");
  expect(await machine.show(UNIT, "UnitFileState")).toBe("enabled");
  expect((await machine.exec(["trunkline-agent", "--help"])).stdout).toContain("Trunkline's agent");
  const [host] = (await admin.get("/hosts")).items;
  expect(stdout).toContain(`this host is ${host.id}`);
  expect(host).toMatchObject({ role: "exit", version: "0.1.0", state: "pending" });
});

check("the token is nowhere afterwards: no file, no argv, no environment, no journal", async () => {
  const found = await machine.exec(["grep", "-rIlF", token, "/etc", "/opt", "/var", "/tmp", "/root", "/run"], {
    check: false,
  });
  expect(found.stdout).toBe("");
  const pid = await machine.show(UNIT, "MainPID");
  for (const file of ["cmdline", "environ"]) {
    const text = (await machine.exec(["cat", `/proc/${pid}/${file}`])).stdout;
    expect(text).toContain("/");
    expect(text).not.toMatch(/tl_enr|TOKEN/);
  }
  expect((await machine.exec(["journalctl", "--no-pager", "-q"])).stdout).not.toContain(token);
  expect(
    (await machine.exec(["stat", "-c", "%a %U", "/var/lib/trunkline", "/var/lib/trunkline/keys.json"])).stdout,
  ).toBe("700 root\n600 root\n");
});

check("run again it repairs what is broken, and touches nothing when nothing is", async () => {
  const right = await sha256(BUNDLE);
  const host = (await machine.exec(["cat", "/var/lib/trunkline/enrolment.json"])).stdout;
  const pid = await machine.show(UNIT, "MainPID");
  const again = await install();
  expect([again.code, again.stderr]).toEqual([0, ""]);
  expect(again.stdout).toContain("enrolled already");
  expect(await machine.show(UNIT, "MainPID")).toBe(pid);

  appendFileSync(machine.path("/opt/trunkline/versions/0.1.0/agent.mjs"), "throw new Error('damaged')\n");
  await machine.exec(["rm", `/etc/systemd/system/${UNIT}`, "/opt/trunkline/current"]);
  await machine.exec(["systemctl", "daemon-reload"]);
  // An upgrade that was fetched and not begun: who installs by hand wants this version.
  const files = new UpgradeFiles(machine.path("/var/lib/trunkline"));
  const [content, asked] = ["another agent", Math.floor(Date.now() / 1000)];
  const named = createHash("sha256").update(content).digest("hex");
  files.writeRequest({ attempt: "tsk_1", version: "0.2.0", sha256: named, limit: 60, asked });
  writeFileSync(files.path("staged.mjs"), content);
  expect((await install()).code).toBe(0);
  expect(readdirSync(files.dir)).toEqual([]);
  expect(await sha256(BUNDLE)).toBe(right);
  expect(await machine.show(UNIT, "ActiveState")).toBe("active");
  expect(await machine.show(UNIT, "MainPID")).not.toBe(pid);
  expect((await machine.exec(["cat", "/var/lib/trunkline/enrolment.json"])).stdout).toBe(host);
  expect(await hostsKnown()).toBe(1);
});

check("a file that is not what the control plane named is not installed, and the old one stays in use", async () => {
  const bundle = join(releases, "0.1.0/agent.mjs");
  const manifest = join(releases, "0.1.0/manifest.json");
  const [whole, named] = [readFileSync(bundle), readFileSync(manifest, "utf8")];
  const right = await sha256(BUNDLE);
  try {
    writeFileSync(manifest, named.replace(right ?? "", "0".repeat(64)));
    const { code, stderr } = await install();
    expect([code, stderr]).toEqual([1, expect.stringContaining("agent.mjs is not what the control plane said")]);
    expect(await sha256(BUNDLE)).toBe(right);
    expect(await machine.show(UNIT, "ActiveState")).toBe("active");
    expect((await machine.exec(["ls", "/opt/trunkline/versions/0.1.0"])).stdout).toBe("agent.mjs\n");
  } finally {
    writeFileSync(bundle, whole);
    writeFileSync(manifest, named);
  }
});

check("linked and idle, the bundled agent needs at most 24 MB more than a bare node", async () => {
  // Of the 21 measured, 16 are node's own modules that a WebSocket client loads (crypto, http, tls); 5 are ours.
  const self = "process.stdout.write(require('fs').readFileSync('/proc/self/status', 'utf8'))";
  const bare = (await machine.exec(["/opt/trunkline/node", "-e", self])).stdout;
  const pid = await machine.show(UNIT, "MainPID");
  const agent = (await machine.exec(["cat", `/proc/${pid}/status`])).stdout;
  const rss = (status: string) => Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) / 1024);
  process.stdout.write(`resident: bare node ${rss(bare)} MB, agent linked ${rss(agent)} MB\n`);
  expect(rss(agent) - rss(bare)).toBeLessThanOrEqual(24);
});
